"""Every attack of the suite beside its peers: in one run, in turns, on the same model, images and budget.

    python -m bench.suite [--only fmn ddn] [--samples 100] [--model cnn] [--variant full] [--turns 3]

One row for each provider: median time, what it found (median distance or robust accuracy), samples passed
forward and backward, and time over the ideal: the same number of passes through the model alone, in batches
of all samples. Attacks that fastadv lacks are listed and skipped, and so are peers that are not installed;
bench/suite/peers.py says how to get them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench.suite.cases import CASES, Case
from bench.suite.models import MODELS, ROOT, add_places, problem
from bench.suite.outcome import Counting, judge
from bench.suite.parity import stored
from bench.timing import ratio, synchronize
from fastadv._card import machine

Row = dict[str, Any]
COLUMNS = {"case": 28, "provider": 40, "seconds": 8, "times_peer": 10, "found": 8, "no_worse": 8,
           "forwards": 9, "backwards": 9, "over_ideal": 10}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """One run: what it returned, and the samples it passed forward and backward."""

    x_adv: Tensor
    forwards: int
    backwards: int


def providers(
    case: Case, model: nn.Module, x: Tensor, y: Tensor, variant: str
) -> dict[str, Callable[[], Ran]]:
    """The ways to run a case: ours in float32 and with the search in bfloat16, then each peer."""

    def ours(precision: Any) -> Ran:
        out = case.run(fa.freeze(model, precision=precision), x, y, variant)
        return Ran(out.x_adv, out.forwards, out.backwards)

    def theirs(peer: Any) -> Ran:
        counting = Counting(model)
        x_adv = peer.run(counting, x, y, case.radius, **case.budget(variant))
        return Ran(x_adv, counting.forwards, counting.backwards)

    ways: dict[str, Callable[[], Ran]] = {}
    if case.exists:
        ways = {f"fastadv {p}": lambda p=p: ours(p) for p in ("fp32", "bf16")}  # type: ignore[misc]
    return ways | {p.name: lambda p=p: theirs(p) for p in case.peers}  # type: ignore[misc]


def timed(way: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    way()
    synchronize()
    return time.perf_counter() - start


def ideal(model: nn.Module, x: Tensor, y: Tensor, turns: int = 7) -> tuple[float, float]:
    """Seconds a sample for a forward and a backward, through the faster of the model and its frozen twin."""
    frozen = fa.freeze(model)

    def bare() -> None:
        point = x.clone().requires_grad_()
        torch.autograd.grad(nn.functional.cross_entropy(model(point), y, reduction="sum"), point)

    def bare_forward() -> None:
        with torch.no_grad():
            model(x)

    def best(*ways: Callable[[], object]) -> float:
        return min(statistics.median(timed(way) for _ in range(turns)) for way in ways) / len(x)

    forward = best(bare_forward, lambda: frozen(x))
    return forward, best(bare, lambda: frozen.input_gradient(x, y)) - forward


def rows(
    case: Case, model: nn.Module, x: Tensor, y: Tensor, variant: str, turns: int, known: Sequence[Row] = ()
) -> Iterator[Row]:
    """One row for each provider. The first run of each gives the result, the rest the times.

    `no_worse` compares with the best of the peers that ran and of the `known` figures of the same problem.
    """
    ways = providers(case, model, x, y, variant)
    ran: dict[str, Ran] = {}
    for name, way in ways.items():
        try:
            ran[name] = way()
        except ImportError as error:
            print(f"{case.name}: {name} is not installed: {error}")
    taken: dict[str, list[float]] = {name: [] for name in ran}
    for _ in range(turns):
        for name in reversed(ran):  # a peer first
            taken[name].append(timed(ways[name]))
    found = {
        name: judge(model, x, y, run.x_adv, case.norm, case.radius).figures(case.radius) | {"images": len(x)}
        for name, run in ran.items()
    }
    peers = [name for name in ran if not name.startswith("fastadv ")]
    fastest = min(peers, key=lambda name: statistics.median(taken[name]), default=None)
    forward, backward = ideal(model, x, y)
    for name, run in ran.items():
        passes = run.forwards * forward + run.backwards * backward
        row: Row = {
            "case": case.name,
            "provider": name,
            "seconds": round(statistics.median(taken[name]), 4),
            "times_peer": round(ratio(taken[fastest], taken[name]), 2) if fastest else None,
            **found[name],
            "no_worse": None,
            "forwards": run.forwards,
            "backwards": run.backwards,
            "over_ideal": round(statistics.median(taken[name]) / passes, 2),
        }
        row["found"] = row["robust_accuracy" if "robust_accuracy" in row else "median"]
        if rivals := [*(found[peer] for peer in peers), *known]:
            row["no_worse"] = row["found"] <= case.allowed(rivals)
        yield row


def cell(row: Row, key: str) -> str:
    return str(row[key])[: COLUMNS[key]].ljust(COLUMNS[key])


def measured(options: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """The rows of all chosen cases on all chosen models."""
    for name in options.model:
        model, x, y = problem(name, options.samples, options.data_dir, options.weights)
        model, x, y = model.to(device), x.to(device), y.to(device)
        for case in CASES:
            chosen = not options.only or case.name.startswith(tuple(options.only))
            count = case.count(options.variant, options.samples)
            if not (chosen and count and name in case.models):
                continue
            if not case.exists:
                print(f"{case.name:{COLUMNS['case']}}  not there yet")
                continue
            this = (case.name, options.variant, count)
            known = [f for f in stored() if (f["case"], f["variant"], f["images"]) == this and name == "cnn"]
            for row in rows(case, model, x[:count], y[:count], options.variant, options.turns, known):
                yield {**row, "model": name}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="cases whose names begin so")
    parser.add_argument("--samples", type=int, default=100, help="images, at most")
    parser.add_argument("--model", nargs="+", default=["cnn"], choices=MODELS)
    parser.add_argument("--variant", default="full", choices=["full", "quick"], help="which budget")
    parser.add_argument("--turns", type=int, default=3, help="timed runs of each provider")
    parser.add_argument("--out", type=Path, help="default: bench/results/suite_cpu.jsonl or suite_cuda.jsonl")
    add_places(parser)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = options.out or ROOT / "bench" / "results" / f"suite_{device.type}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "variant": options.variant,
        "turns": options.turns,
        "device": device.type,
        "dtype": "float32",
        **machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print("  ".join(name.ljust(width) for name, width in COLUMNS.items()))
    for row in measured(options, device):
        print("  ".join(cell(row, key) for key in COLUMNS), flush=True)
        with out.open("a") as file:
            file.write(json.dumps({**row, **about}).replace("Infinity", "null") + "\n")


if __name__ == "__main__":
    main()
