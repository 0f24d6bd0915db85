"""The kernels, attacks, training and ABS on this machine's GPU: checked first, then measured.

    python -m bench.gpu [STAGE ...] [--out DIR] [--budget 1200] [--only TEXT] [--keep]

Stages, in order of importance: loop, correctness, limits, training, autoattack, ops, certify, abs, construct,
attacks; without a name, all. Together they take at most `--budget` seconds and some for their ends; what is
left is named, and a second call goes on there. JSON lines go to DIR/gpu.jsonl, and a short table is printed
last.

It needs torch, NumPy and Triton alone, and says what it leaves out for lack of other packages or data. On a
machine without a GPU the same cases run at tiny sizes in Triton's interpreter and on the CPU, which tests
this script and measures nothing.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench import records
from bench.gpu.table import table
from bench.gpu.worker import GPU_LOST, begun
from bench.records import ON_GPU as STAGES
from bench.records import RESULTS, ROOT, Row, broken, recorded

LEAST = 15  # seconds for which a stage is begun
GRACE = 25  # seconds that a stage may run past its budget before it is stopped
LAUNCHES = 6  # processes for one stage, at most
BUILD_SECONDS = 240

say = partial(print, flush=True)  # in order with what the stages' processes print


def options() -> argparse.Namespace:
    parser = records.parser(__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument(
        "--out", type=Path, help="folder of gpu.jsonl (bench/results; build/gpu without a GPU)"
    )
    parser.add_argument("--budget", type=float, default=1200, help="seconds for all stages together (1200)")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="spent on each measurement, at least (0.3)"
    )
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--again", action="store_true", help="repeat what is recorded already")
    parser.add_argument("--keep", action="store_true", help="let the kernels launch with the tuned widths")
    parser.add_argument("--no-build", action="store_true", help="do not build the extension")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, as on machines without a GPU")
    parser.add_argument("--commit", default="", help="recorded where the tree has no .git")
    records.add_places(parser)
    given = parser.parse_args()
    if unknown := [stage for stage in given.stages if stage not in STAGES]:
        parser.error(f"expected stages among {', '.join(STAGES)}, got {', '.join(unknown)}")
    return given


def build() -> None:
    """Build the C++ extension in place where that works; say why where it does not."""
    probe = [sys.executable, "-c", "import torch, fastadv._C"]
    if subprocess.run(probe, cwd=ROOT, capture_output=True).returncode == 0:
        return
    if missing := [name for name in ("pybind11", "setuptools", "pip") if not importlib.util.find_spec(name)]:
        say(f"note: the extension is not built ({', '.join(missing)} not installed)")
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--editable", "."]
    started = time.monotonic()
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_SECONDS)
        why = "" if run.returncode == 0 else (run.stderr.strip().splitlines() or ["pip failed"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    spent = f"{time.monotonic() - started:.0f} s"
    say(f"note: the extension is not built after {spent}: {why}" if why else f"extension built in {spent}")


def launch(stage: str, given: Row) -> None:
    """Run a stage to its end: start another process if one is lost, and kill one that hangs."""
    out = Path(given["out"])
    worker = [sys.executable, "-m", "bench.gpu.worker"]
    for _ in range(LAUNCHES):
        begun(out).unlink(missing_ok=True)
        process = subprocess.Popen([*worker, json.dumps(given | {"stage": stage})], cwd=ROOT)
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
            lost(stage, out, given, why)
            if code is None or not begun(out).exists():
                return
    say(f"{stage}: given up after {LAUNCHES} processes")


def lost(stage: str, out: Path, given: Row, why: str) -> None:
    """Record the case at which a process died."""
    case = begun(out).read_text() if begun(out).exists() else "(start)"
    row = {"stage": stage, "case": case, "status": "failed", "why": why, "run": given["run"]}
    row |= {"commit": given["commit"], "torch": "", "device": "", "date": given["run"]}
    with (out / "gpu.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    say(f"{stage} | {case}: failed: {why}")


def main() -> int:
    started, given = time.monotonic(), options()
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ["TRITON_INTERPRET"] = "1"
        say("no GPU: tiny sizes on the CPU; nothing here is a measurement")
    out = (given.out or (RESULTS if cuda and not given.tiny else ROOT / "build" / "gpu")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if not given.no_build:
        build()
    run = datetime.now(UTC).isoformat(timespec="seconds")
    shared: Row = {
        "out": str(out),
        "results": str(RESULTS / "gpu.jsonl") if out != RESULTS else "",
        "run": run,
        "tiny": given.tiny or not cuda,
        "seconds": given.seconds if cuda else min(given.seconds, 0.01),
        "only": given.only,
        "again": given.again,
        "commit": given.commit,
        **{name: str(getattr(given, name) or "") for name in ("data_dir", "weights", "official")},
    }
    end, waiting = started + given.budget, []
    for stage in given.stages or STAGES:
        now = time.monotonic()
        if end - now < LEAST:
            waiting.append(stage)
        else:  # a stage that is named takes what there is
            launch(stage, shared | {"deadline": end if given.stages else min(end, now + STAGES[stage])})
    rows = [row for row in recorded(out / "gpu.jsonl") if row.get("run") == run]
    keep_tuned(out, rows, given.keep)
    say(table(rows))
    waiting += [
        f"{row['stage']} ({row['case']})" for row in rows if "of the stage's time left" in row.get("why", "")
    ]
    say(f"left for another call: {', '.join(waiting)}" if waiting else "nothing is left")
    return int(any(map(broken, rows)))


def keep_tuned(out: Path, rows: list[Row], keep: bool) -> None:
    """Write the launch widths that won: beside the rows, and with `keep` where the kernels read them."""
    from bench.subjects.widths import write_tuned

    if write_tuned(out / "gpu_tuned.json", rows):
        kernels = ROOT / "fastadv" / "ops" / "triton" / "tuned.json"
        if keep:
            write_tuned(kernels, rows)
        say(f"tuned widths: {out / 'gpu_tuned.json'}", "(kept)" if keep else "(--keep lets kernels use them)")


if __name__ == "__main__":
    sys.exit(main())
