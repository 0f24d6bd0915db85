"""The kernels, attacks, training and ABS on this machine's GPU: checked first, then measured.

    python -m bench.gpu [STAGE ...] [--out DIR] [--budget 1200] [--only TEXT] [--keep]

Stages, in order of importance: loop, correctness, limits, training, autoattack, ops, certify, abs, construct,
attacks; without a name, all. Together they take at most `--budget` seconds and some for their ends; what is
left is named, and a second call goes on there. JSON lines go to DIR/gpu.jsonl; ours are printed in short.

It needs torch, NumPy and Triton alone, and says what it leaves out for lack of other packages or data. On a
machine without a GPU the same cases run at tiny sizes in Triton's interpreter and on the CPU, which tests
this script and measures nothing.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench import records
from bench.records import ON_GPU as STAGES
from bench.records import RESULTS, ROOT, Row, broken, recorded

LEAST = 15  # seconds for which a stage is begun
GRACE = 25  # seconds that a stage may run past its budget before it is stopped
LAUNCHES = 6  # processes for one stage, at most
GPU_LOST = 75  # exit code: this process can use the GPU no more, another one can
AT_WORK = ".gpu_case"  # the file that names the case at work, read if the process dies
# shown at the end of a line, the first two that a row has
SHOWN = (
    "error", "outside_ms", "first_ms", "rows_apart", "status_apart", "accuracy", "success", "loss",
    "fooling_rate", "same_class", "mean_bound", "relative_error", "samples", "width", "gb_per_s",
    "tflop_per_s", "result",
)  # fmt: skip

say = partial(print, flush=True)  # in order with what the stages' processes print


def options() -> argparse.Namespace:
    parser = records.parser(__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--out", type=Path, help="folder of gpu.jsonl (else bench/results or build/gpu)")
    parser.add_argument("--budget", type=float, default=1200, help="seconds for all stages together (1200)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement, at least (0.3)")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--again", action="store_true", help="repeat what is recorded already")
    parser.add_argument("--keep", action="store_true", help="let the kernels launch with the tuned widths")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, as on machines without a GPU")
    parser.add_argument("--commit", default="", help="recorded where the tree has no .git")
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # of a process of its own: what to do, as JSON
    records.add_places(parser)
    given = parser.parse_args()
    if unknown := [stage for stage in given.stages if stage not in STAGES]:
        parser.error(f"expected stages among {', '.join(STAGES)}, got {', '.join(unknown)}")
    return given


def launch(stage: str, given: Row) -> None:
    """Run a stage to its end: start another process if one is lost, and kill one that hangs."""
    at_work = Path(given["out"]) / AT_WORK
    command = [sys.executable, "-m", "bench.gpu", "--stage", json.dumps(given | {"stage": stage})]
    for _ in range(LAUNCHES):
        at_work.unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            code = process.wait(max(1.0, given["deadline"] + GRACE - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code, why = None, f"stopped {GRACE} s after the stage's time was used up"
        except KeyboardInterrupt:
            process.kill()
            raise
        if code == 0:
            return
        if code != GPU_LOST:
            if code is not None:
                why = f"its process ended with code {code}"
            lost(stage, at_work, given, why)
            if code is None or not at_work.exists():
                return
    say(f"{stage}: given up after {LAUNCHES} processes")


def lost(stage: str, at_work: Path, given: Row, why: str) -> None:
    case = at_work.read_text() if at_work.exists() else "(start)"
    row = {"stage": stage, "case": case, "status": "failed", "why": why, "run": given["run"]}
    row |= {"commit": given["commit"], "torch": "", "device": "", "date": given["run"]}
    with (at_work.parent / "gpu.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    say(f"{stage} | {case}: failed: {why}")


def source_hash() -> str:
    """Hash all code that can change a figure, so that a run resumes with the same code only."""
    digest = hashlib.sha256()
    for pattern in ("fastadv/**/*.py", "fastadv/**/*.json", "csrc/**/*.*", "bench/**/*.py"):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def about(device: Any, given: Row) -> Row:
    import torch

    from fastadv.card import machine

    found = machine()
    products = torch.get_float32_matmul_precision() != "highest"
    return {
        **found, "commit": found["commit"] or given["commit"], "source": source_hash(),
        "cuda": torch.version.cuda,
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "products": products},
        "device": device.type, "size": "tiny" if given["tiny"] else "full", "run": given["run"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def finished(rows: Iterable[Row], here: Row, again: bool) -> set[tuple[str, str]]:
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


def work(given: Row) -> int:
    """Run one stage in this process. Returns the exit code."""
    import torch

    from bench.session import Session, run_stage

    device, out = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Path(given["out"])
    paths = {name: Path(given[name]) if given[name] else None for name in records.PLACES}
    session = Session(device, given["tiny"], given["seconds"], given["deadline"], **paths)
    here, file, at_work = about(device, given), out / "gpu.jsonl", out / AT_WORK
    skip = finished([*recorded(file), *recorded(Path(given["results"]))], here, given["again"])
    with file.open("a") as stream:

        def write(row: Row) -> None:
            stream.write(json.dumps({**row, **here}) + "\n")
            stream.flush()
            if "status" in row:
                why = f": {row['why']}" if "why" in row else ""
                say(f"{row['stage']} | {row['case']}: {row['status']}{why}")
            elif row["provider"].startswith(("fastadv", "winner", "torch")):
                say(line(row))

        alive = run_stage(given["stage"], session, write, skip, given["only"], at_work.write_text)
    at_work.unlink(missing_ok=True)
    return 0 if alive else GPU_LOST


def ended(rows: list[Row]) -> str:
    """Say of each stage how many of its cases are done, and why others failed or were skipped."""
    lines = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        ends = [row for row in rows if row["stage"] == stage and "status" in row]
        counts = [f"{sum(r['status'] == s for r in ends)} {s}" for s in ("done", "failed", "skipped")]
        lines.append(f"{stage}: {', '.join(counts)}")
        lines += [f"  {r['status']}: {r['case']}: {r.get('why', '')}" for r in ends if r["status"] != "done"]
    return "\n".join(lines)


def line(row: Row) -> str:
    """Write a measurement: median, share of a ceiling, how many times faster, and two of its results."""
    case = row["what"] if row["case"] == "ceilings" else row["case"]
    cells = [f"{case[:44]:<44} {str(row['provider'])[:22]:<22}"]
    for start, unit in (
        ("p50_ms", "ms"),
        ("share_of_", "of ceiling"),
        ("times_", "times"),
        ("peak_mib", "MiB"),
    ):
        value = next((row[key] for key in row if key.startswith(start)), None)
        cells.append(f"{'' if value is None else f'{value:.4g} {unit}':>16}")
    figures = [f"{key} {row[key]}" for key in SHOWN if row.get(key) is not None][:2]
    return f"{' '.join(cells)}  {', '.join(figures)[:60]}".rstrip()


def keep_tuned(out: Path, rows: list[Row], keep: bool) -> None:
    """Write the launch widths that won: beside the rows, and with `keep` where the kernels read them."""
    from bench.subjects.ops import write_tuned

    if write_tuned(out / "gpu_tuned.json", rows):
        if keep:
            write_tuned(ROOT / "fastadv" / "ops" / "triton" / "tuned.json", rows)
        say(f"tuned widths: {out / 'gpu_tuned.json'}", "(kept)" if keep else "(--keep lets kernels use them)")


def main() -> int:
    started, given = time.monotonic(), options()
    if given.stage:
        return work(json.loads(given.stage))
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ["TRITON_INTERPRET"] = "1"
        say("no GPU: tiny sizes on the CPU; nothing here is a measurement")
    out = (given.out or (RESULTS if cuda and not given.tiny else ROOT / "build" / "gpu")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    run = datetime.now(UTC).isoformat(timespec="seconds")
    shared: Row = {
        "out": str(out), "results": str(RESULTS / "gpu.jsonl") if out != RESULTS else "", "run": run,
        "tiny": given.tiny or not cuda, "seconds": given.seconds if cuda else min(given.seconds, 0.01),
        "only": given.only, "again": given.again, "commit": given.commit,
        **{name: str(getattr(given, name) or "") for name in records.PLACES},
    }  # fmt: skip
    end, waiting = started + given.budget, []
    for stage in given.stages or STAGES:
        now = time.monotonic()
        if end - now < LEAST:
            waiting.append(stage)
        else:  # a stage that is named takes what there is
            launch(stage, shared | {"deadline": end if given.stages else min(end, now + STAGES[stage])})
    rows = [row for row in recorded(out / "gpu.jsonl") if row.get("run") == run]
    keep_tuned(out, rows, given.keep)
    say(ended(rows))
    waiting += [
        f"{row['stage']} ({row['case']})" for row in rows if "of the stage's time left" in row.get("why", "")
    ]
    say(f"left for another call: {', '.join(waiting)}" if waiting else "nothing is left")
    return int(any(map(broken, rows)))


if __name__ == "__main__":
    sys.exit(main())
