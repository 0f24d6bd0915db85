"""One stage of `make gpu` in a process of its own, whose rows say where they come from."""

import hashlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.records import ROOT, Row, recorded

GPU_LOST = 75  # exit code: this process can use the GPU no more, another one can


def begun(out: Path) -> Path:
    """Return the file that names the case at work, read if the process dies."""
    return out / ".gpu_case"


def source_hash(root: Path = ROOT) -> str:
    """Hash all code that can change a figure, so that a run resumes with the same code only."""
    digest = hashlib.sha256()
    for pattern in ("fastadv/**/*.py", "fastadv/**/*.json", "csrc/**/*.*", "bench/**/*.py"):
        for path in sorted(root.glob(pattern)):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def about(device: Any, tiny: bool, run: str, commit: str) -> Row:
    """Return what every row says of its origin."""
    import torch

    from fastadv.runs.card import machine

    found = machine()
    products = torch.get_float32_matmul_precision() != "highest"
    return {
        **found, "commit": found["commit"] or commit, "source": source_hash(), "cuda": torch.version.cuda,
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "products": products},
        "device": device.type, "size": "tiny" if tiny else "full", "run": run,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def finished(rows: Iterator[Row], here: Row, again: bool) -> set[tuple[str, str]]:
    """Return the (stage, case) done by this code on this machine before, or ended in this very run."""
    same = ("source", "gpu", "size", "torch", "triton")
    return {
        (row["stage"], row["case"])
        for row in rows
        if "status" in row
        and (
            row.get("run") == here["run"]
            or (not again and row["status"] == "done" and all(row.get(key) == here[key] for key in same))
        )
    }


def main() -> int:
    """Run the stage that `bench.gpu` names in its options, given as JSON."""
    given = json.loads(sys.argv[1])
    import torch

    from bench.session import Session
    from bench.stage import run_stage

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tiny, out = given["tiny"], Path(given["out"])
    paths = {name: Path(given[name]) if given[name] else None for name in ("data_dir", "weights", "official")}
    session = Session(device, tiny, given["seconds"], given["deadline"], **paths)
    here = about(device, tiny, given["run"], given["commit"])
    file = out / "gpu.jsonl"
    rows = [*recorded(file), *recorded(Path(given["results"]))]
    skip = finished(iter(rows), here, given["again"])

    with file.open("a") as stream:

        def write(row: Row) -> None:
            stream.write(json.dumps({**row, **here}) + "\n")
            stream.flush()
            if "status" in row:
                why = f": {row['why']}" if "why" in row else ""
                print(
                    f"{row['stage']} | {row['case']}: {row['status']} in {row.get('seconds', 0):.1f} s{why}",
                    flush=True,
                )

        def mark(case: str) -> None:
            begun(out).write_text(case)

        alive = run_stage(given["stage"], session, write, skip, given["only"], mark)
    begun(out).unlink(missing_ok=True)
    return 0 if alive else GPU_LOST


if __name__ == "__main__":
    sys.exit(main())
