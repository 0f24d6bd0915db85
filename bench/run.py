"""Run the benchmarks and append one JSON line per measurement to bench/results/.

    python bench/run.py [--only ops attacks training memory abs] [--seconds 1] [--out FILE]
                        [--data-dir DIR --weights vanilla_cnn.net --official DIR]

The contract tests of the ops run first, so that nothing is measured on a kernel that is wrong.
`make bench` installs the peers.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import fastadv as fa
from bench import abs as abs_rows
from bench import attacks, memory, ops, training
from fastadv._card import machine

PARTS = ("ops", "attacks", "training", "memory", "abs")
HERE = Path(__file__).resolve().parent


def gate() -> None:
    """Stop unless every kernel equals its reference."""
    test = HERE.parent / "tests" / "ops" / "test_contract.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", f"{test}::test_kernel_equals_reference"], cwd=HERE.parent
    )
    if run.returncode:
        raise SystemExit("bench: a kernel differs from its reference; nothing was measured")


def measure(options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    if "ops" in options.only:
        yield from ops.rows(device, options.seconds)
    if "attacks" in options.only:
        yield from attacks.rows(options.data_dir, options.weights, device, options.seconds)
    if "training" in options.only:
        yield from training.rows(options.seconds)
    if "memory" in options.only:
        yield from memory.rows()
    if "abs" in options.only:
        yield from abs_rows.rows(device, options.seconds, options.official, options.data_dir)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each measurement, at least")
    parser.add_argument(
        "--data-dir", type=Path, help="folder that holds MNIST/raw, for the attack and ABS rows"
    )
    parser.add_argument("--weights", type=Path, help="the published vanilla_cnn.net, for the attack rows")
    parser.add_argument(
        "--official",
        type=Path,
        help="folder that holds the authors' ABS_0.net to ABS_9.net, for the ABS rows",
    )
    parser.add_argument("--out", type=Path, help="default: bench/results/cpu.jsonl or cuda.jsonl")
    parser.add_argument("--no-gate", action="store_true", help="skip the contract tests (the rows say so)")
    options = parser.parse_args()
    if not options.no_gate:
        gate()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = options.out or HERE / "results" / f"{device.type}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {
        **machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "isa": fa.backends()["linf_step"][device.type],
        "gate": "skipped" if options.no_gate else "passed",
    }
    with out.open("a") as file:
        for row in measure(options, device):
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            file.write(json.dumps({**row, "device": device.type, "dtype": "float32", **about}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
