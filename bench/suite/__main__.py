"""Every attack of the suite beside its peers: in one run, in turns, on the same model, images and budget.

    python -m bench.suite [--only fmn ddn] [--samples 100] [--model cnn] [--variant full] [--turns 3]
                          [--precision fp32 bf16]

One row for each provider: median time, the processor time of each turn, what it found (median distance or
robust accuracy), samples passed forward and backward, and time over the ideal: the same batches through the
model alone. Attacks that fastadv lacks are listed and skipped, and so are peers that are not installed;
tests/parity/peers.py says how to get them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import records
from bench.clock import ratio, wall
from bench.suite.parity import Counting, Log, alone
from fastadv.card import machine
from tests.parity.case import Case
from tests.parity.cases import cases_on
from tests.parity.models import NETS, ROOT, add_places, problem
from tests.parity.store import STORES, stored
from tests.parity.verdict import judge

Way = Callable[[nn.Module], Tensor]
PRECISIONS = ("fp32", "bf16")
COLUMNS = {"case": 28, "provider": 40, "seconds": 8, "times_peer": 10, "found": 8, "no_worse": 8,
           "forwards": 9, "backwards": 9, "over_ideal": 10}  # fmt: skip


def providers(
    case: Case, x: Tensor, y: Tensor, variant: str, logs: dict[str, Log],
    precisions: Sequence[str] = PRECISIONS,
) -> dict[str, Way]:  # fmt: skip
    """The ways to run a case on a model: ours with the search in each of the precisions, then each peer.

    Where queries are our budget, it is that of the peer with the fewest in `logs`, which is filled later.
    """

    def ours(model: nn.Module, precision: Any) -> Tensor:
        spent = [log.samples("forward") for name, log in logs.items() if not name.startswith("fastadv ")]
        passes = {"passes": min(spent) / len(x)} if spent else {}
        return case.run(fa.freeze(model, precision=precision), x, y, variant, **passes).x_adv

    def theirs(model: nn.Module, peer: Any) -> Tensor:
        found: Tensor = peer.run(model, x, y, case.radius, **case.budget(variant))
        return found

    ways: dict[str, Way] = {}
    if case.exists:
        ways = {f"fastadv {p}": partial(ours, precision=p) for p in precisions}
    return ways | {peer.name: partial(theirs, peer=peer) for peer in case.peers}


def rows(
    case: Case, model: nn.Module, x: Tensor, y: Tensor, variant: str, turns: int,
    known: Sequence[records.Row] = (), precisions: Sequence[str] = PRECISIONS,
) -> Iterator[records.Row]:  # fmt: skip
    """One row for each provider. A first run of each counts its passes, the rest give times and result.

    `no_worse` compares with the best of the peers that ran and of the `known` figures of the same problem.
    """
    logs: dict[str, Log] = {}
    ways = providers(case, x, y, variant, logs, precisions)
    for name in reversed(ways):  # a peer first
        counting = Counting(model)
        try:
            ways[name](counting)
        except ImportError as error:
            print(f"{case.name}: {name} is not installed: {error}")
        else:
            logs[name] = counting.log
    taken, worked = ({name: list[float]() for name in logs} for _ in range(2))
    ran: dict[str, Tensor] = {}
    for _, name in product(range(turns), logs):
        started = time.process_time()
        seconds, ran[name] = wall(partial(ways[name], model))
        worked[name].append(round(time.process_time() - started, 4))
        taken[name].append(seconds)
    found = {
        name: judge(model, x, y, x_adv, case.norm, case.radius).figures(case.radius) | {"images": len(x)}
        for name, x_adv in ran.items()
    }
    peers = [name for name in ran if not name.startswith("fastadv ")]
    fastest = min(peers, key=lambda name: statistics.median(taken[name]), default=None)
    ideal = alone(model, x, y)
    for name in filter(logs.get, ways):
        log = logs[name]
        seconds, times = statistics.median(taken[name]), fastest and ratio(taken[fastest], taken[name])
        row: records.Row = {
            "case": case.name, "provider": name, "seconds": round(seconds, 4),
            "processor_seconds": sorted(worked[name]), "times_peer": times and round(times, 2),
            **found[name], "no_worse": None, "forwards": log.samples("forward"),
            "backwards": log.samples("backward"), "over_ideal": round(seconds / ideal(log), 2),
        }  # fmt: skip
        row["found"] = row["robust_accuracy" if "robust_accuracy" in row else "median"]
        if rivals := [*(found[peer] for peer in peers), *known]:
            row["no_worse"] = row["found"] <= case.allowed(rivals)
        yield row


def measured(options: argparse.Namespace, device: torch.device) -> Iterator[records.Row]:
    same, figures = ("case", "net", "variant", "images", "radius"), stored(STORES["quick"])
    for name in options.model:
        model, *data = problem(name, options.samples, options.data_dir, options.weights)
        x, y = (part.to(device) for part in data)
        for case in cases_on(name):
            if options.only and not case.name.startswith(tuple(options.only)):
                continue
            if not case.exists:
                print(f"{case.name:{COLUMNS['case']}}  not there yet")
                continue
            count = case.count(options.variant, options.samples)
            this = (case.name, name, options.variant, count, case.radius)
            known = [figure for figure in figures if tuple(map(figure.get, same)) == this]
            how = (options.variant, options.turns, known, options.precision)
            for row in rows(case, model.to(device), x[:count], y[:count], *how):
                yield {**row, "model": name}


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--only", nargs="+", help="cases whose names begin so")
    parser.add_argument("--samples", type=int, default=100, help="images, at most")
    parser.add_argument("--model", nargs="+", default=["cnn"], choices=NETS)
    parser.add_argument("--variant", default="full", choices=["full", "quick"], help="which budget")
    parser.add_argument("--turns", type=int, default=3, help="timed runs of each provider")
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS, help="of ours")
    parser.add_argument("--out", type=Path, help="default: bench/results/suite_cpu.jsonl or suite_cuda.jsonl")
    add_places(parser)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = options.out or ROOT / "bench" / "results" / f"suite_{device.type}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "variant": options.variant, "turns": options.turns, "device": device.type, "dtype": "float32",
        **machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    print("  ".join(name.ljust(width) for name, width in COLUMNS.items()))
    for row in measured(options, device):
        cells = (str(row[key])[:width].ljust(width) for key, width in COLUMNS.items())
        print("  ".join(cells), flush=True)
        with out.open("a") as file:
            file.write(json.dumps({**row, **about}).replace("Infinity", "null") + "\n")


if __name__ == "__main__":
    main()
