"""PGD against the best of all peers, each in a process of its own that is fresh for the net.

    python -m bench.anchor [--net cnn mlp small_cnn resnet18] [--turns 5]
                           [--data-dir DIR --weights vanilla_cnn.net] [--out FILE]

torchattacks, adv-lib, a loop by hand and a compiled one run with freed pages kept by the C library and
without, and the fastest of these eight is what counts. fastadv runs as a user has it, and with all pages
kept. All processes of a net take turns, one call each, so that slow moments of the machine hit all alike. The
rows are appended to bench/results/anchor_cpu.jsonl, net by net, and `python -m bench.page` writes the tables.
With five turns it takes up to 20 minutes on two cores.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench import base, problems, records
from bench.anchor.rows import Taken, rows
from bench.anchor.ways import WAYS, Way
from bench.anchor.worker import given
from bench.ceilings import Ceilings
from bench.compare import Answering
from bench.records import RESULTS, Row
from bench.session import Session
from fastadv.runs.card import machine

NETS = [name for name, net in problems.NETS.items() if net.counts[2]]
WRITTEN = (":!bench/results", ":!docs", ":!*.md")  # by runs and by bench.page, without effect on a figure


def started(net: str, way: Way, places: Sequence[str]) -> Answering:
    """Start the process of a way, which imports while others do."""
    command = [sys.executable, "-m", "bench.anchor.worker", net, way.provider, *places]
    return Answering(command, way.environment())


def measured(net: str, turns: int, places: Sequence[str], ways: Sequence[Way] = WAYS) -> list[Taken]:
    """Let the processes of a net take turns, of which every second begins with the last."""
    with ExitStack() as stack:
        workers = {way: stack.enter_context(closing(started(net, way, places))) for way in ways}
        for way in ways:
            if error := workers[way].ask("warm").get("error"):  # without one peer there is no best of all
                raise SystemExit(f"bench: {way.provider} cannot run here: {error}")
        taken = {way: Taken(way) for way in workers}
        for turn in range(turns):
            for way in [*workers][:: -1 if turn % 2 else 1]:
                answer = workers[way].ask("turn")
                taken[way].ms.append(answer["ms"])
                taken[way].faults.append(answer["faults"])
        flops = workers[ways[-1]].ask("flops")["flops"]
        for way, each in taken.items():
            each.found, each.flops = workers[way].ask("found"), flops
    return [*taken.values()]


def commit(told: str) -> str:
    """Return the commit without its mark of changes where only results and pages have changed."""
    marked = told.endswith("+") and not base.git("status", "--porcelain", "-uno", "--", ".", *WRITTEN)
    return told.removesuffix("+") if marked else told


def about() -> Row:
    """Return what every row says of its origin."""
    found = machine()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"device": "cpu", "dtype": "float32", **found, "commit": commit(found["commit"]), "date": now}


def main() -> None:
    parser = records.parser(__doc__, prog="python -m bench.anchor")
    parser.add_argument("--net", nargs="+", default=NETS, choices=NETS, help="which nets")
    parser.add_argument("--turns", type=int, default=5, help="timed calls of each process")
    parser.add_argument("--out", type=Path, default=RESULTS / "anchor_cpu.jsonl")
    given(parser)
    options = parser.parse_args()
    session, origin = Session(torch.device("cpu")), about()
    places = records.arguments(options, "data_dir", "weights", "images", "steps")
    for net in options.net:
        ceilings = Ceilings.measured(session, products=True)
        for row in rows(measured(net, options.turns, places), ceilings):
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(row | origin) + "\n")


if __name__ == "__main__":
    main()
