"""Run the benchmarks and append one JSON line per measurement to bench/results/.

    python bench/run.py [--only ops attacks training construct certify abs large corruptions anchor]
                        [--seconds 1] [--device cpu] [--out FILE]
                        [--data-dir DIR --weights vanilla_cnn.net --official DIR]

    ops        every op against eager torch, torch.compile or its reference, and a copy
    attacks    PGD on four nets against other libraries and the passes alone, with memory and result
    training   an epoch of PGD-7 against loops by hand, and of every recipe
    construct  D_rand and D_R against loops by hand
    certify    randomized smoothing against the loop of papers and the passes alone
    abs        latent descent, prior search and training; with --official and --data-dir the whole model
    large      ABS with 10 to 1,000 classes, ResNet-50 at 224 x 224, 50,000 images streamed, with memory; peak
               memory of PGD against one forward and backward; the import against that of torch
    corruptions  each beside imagecorruptions-imaug, and all sets of an evaluation; about ten minutes
    anchor     PGD against the best of all peers, each in a process of its own; up to 20 minutes

The contract tests of the ops run first, so that nothing is measured on a kernel that is wrong. On a GPU the
stages and sizes are those of `make gpu`, without its budget of time. `make bench` installs the peers. `python
-m bench.page` then writes the tables and figures from the rows.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import fastadv as fa
from bench import records
from bench.records import ON_CPU, ON_GPU, RESULTS, ROOT, Row, broken
from bench.session import Session, run_stage
from fastadv.card import machine

VARIABLES = ("FASTADV_", "MALLOC_", "GLIBC_")  # that change what is measured
PARTS = (*ON_CPU, "corruptions", "anchor")


def gate() -> None:
    test = ROOT / "tests" / "ops" / "test_contract.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", f"{test}::test_kernel_equals_reference"], cwd=ROOT
    )
    if run.returncode:
        raise SystemExit("bench: a kernel differs from its reference; nothing was measured")


def measure(session: Session, parts: list[str], out: Path, about: Row) -> int:
    """Append the rows of the parts to `out`, except errors. Returns the exit code."""
    failed = []

    def write(row: Row) -> None:
        failed.extend([row] if broken(row) else [])
        if "status" in row and row["status"] != "done":
            print(f"{row['stage']} | {row['case']}: {row['status']}: {row['why']}", flush=True)
        elif "status" not in row:
            told = {key: value for key, value in row.items() if key not in ("stage", "case")}
            print("  ".join(f"{key}={value}" for key, value in told.items()), flush=True)
            if "error" not in row:
                with out.open("a") as file:
                    file.write(json.dumps(told | about) + "\n")

    for part in parts:
        run_stage(part, session, write)
    return 1 if failed else 0


def main() -> int:
    parser = records.parser(__doc__)
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, help="which parts")
    parser.add_argument("--seconds", type=float, default=1.0, help="aimed at for each way")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    records.add_places(parser)
    parser.add_argument("--limit", type=int, default=2000, help="test images of the ABS rows, at most")
    parser.add_argument("--out", type=Path, help="default: bench/results/cpu.jsonl or cuda.jsonl")
    parser.add_argument("--no-gate", action="store_true", help="skip the contract tests (the rows say so)")
    options = parser.parse_args()
    if not options.no_gate:
        gate()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out = options.out or RESULTS / f"{device.type}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    places = {name: getattr(options, name) for name in ("data_dir", "weights", "official", "limit")}
    session = Session(device, seconds=options.seconds, **places)
    parts = [part for part in options.only if part in (PARTS[:-1] if session.on_cpu else ON_GPU)]
    about = {
        "device": device.type, "dtype": "float32", **machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "isa": fa.backends()["linf_step"][device.type], "gate": "skipped" if options.no_gate else "passed",
    }  # fmt: skip
    if told := {name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)}:
        about["variables"] = told
    code = measure(session, parts, out, about)
    if "anchor" in options.only and session.on_cpu:
        places = records.arguments(options, "data_dir", "weights", "out")
        code |= subprocess.run([sys.executable, "-m", "bench.anchor", *places], cwd=ROOT).returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
