"""One stage of `make gpu` in a process of its own: a case that fails is recorded and left behind."""

import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STAGES = ("correctness", "ops", "attacks", "training", "abs", "construct")
GPU_LOST = 75  # exit code: this process can use the GPU no more, another one can
Row = dict[str, Any]


def begun(out: Path) -> Path:
    """The file that names the case at work, for whoever finds the process dead."""
    return out / ".gpu_case"


def recorded(path: Path) -> Iterator[Row]:
    """The rows of a file of JSON lines; a line that a kill cut short is passed over."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def about(device: Any, tiny: bool, run: str, commit: str) -> Row:
    """What every row says of its origin."""
    import torch

    from bench.gpu.session import source_hash
    from fastadv.runs.card import machine

    found = machine()
    return {
        **found,
        "commit": found["commit"] or commit,
        "source": source_hash(),
        "cuda": torch.version.cuda,
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.get_float32_matmul_precision() != "highest",
        },
        "device": device.type,
        "size": "tiny" if tiny else "full",
        "run": run,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def finished(rows: Iterator[Row], here: Row, again: bool) -> set[tuple[str, str]]:
    """(stage, case) of what need not be run: done by this code on this machine, or ended in this very run."""
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


def run_stage(
    stage: str,
    session: Any,
    write: Callable[[Row], None],
    skip: set[tuple[str, str]],
    only: str = "",
    mark: Callable[[str], None] = lambda case: None,
) -> bool:
    """Run the cases of a stage that `skip` does not name and whose name holds `only`.

    Every row goes to `write`, and one row with a status after each case. False where an error has left the
    GPU unusable for this process.
    """
    from bench.gpu.session import Case, Skip, ceilings, said

    module = importlib.import_module(f"bench.gpu.{stage}")
    cases = [*module.cases(session)]
    if stage != "correctness":
        cases.insert(0, Case("ceilings", lambda: ceilings(session)))
    kept = 0
    for case in cases:
        if only not in case.name and case.name != "ceilings":
            continue
        if (stage, case.name) in skip and case.name != "ceilings":
            kept += 1
            continue
        ending: Row = {"stage": stage, "case": case.name}
        if session.left() < case.needs and not session.tiny:
            why = f"{max(0, session.left()):.0f} s of the stage's time left, {case.needs:.0f} needed"
            write(ending | {"status": "skipped", "why": why})
            continue
        mark(case.name)
        started, lost = time.monotonic(), False
        try:
            for row in case.run():
                write({"stage": stage, "case": case.name, **row})
            ending["status"] = "done"
        except Skip as error:
            ending |= {"status": "skipped", "why": str(error)}
        except Exception as error:
            traceback.print_exc()
            ending |= {"status": "failed", "why": said(error)}
            lost = session.dead()
        write(ending | {"seconds": round(time.monotonic() - started, 2)})
        if lost:
            return False
        session.clear()
    if kept:
        print(
            f"{stage}: {kept} cases were done before by the same code on this machine; --again repeats them"
        )
    return True


def main() -> int:
    """Called by gpu.py with its options as JSON."""
    given = json.loads(sys.argv[1])
    import torch

    from bench.gpu.session import Session

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
