"""PGD against the best of all peers, each in a process of its own that is fresh for the net.

    python -m bench.anchor [--net cnn mlp small_cnn resnet18] [--turns 5]
                           [--data-dir DIR --weights vanilla_cnn.net] [--out FILE]

torchattacks, adv-lib, a loop by hand and a compiled one run with freed pages kept by the C library and
without, and the fastest of these eight is what counts. fastadv runs as a user has it, and with all pages
kept. All processes of a net take turns, one call each, so that slow moments of the machine hit all alike. The
rows are appended to bench/results/anchor_cpu.jsonl, net by net, and `python -m bench.page` writes the tables.
With five turns it takes up to 20 minutes on two cores. --provider names that of a process, which answers each
line that it reads by one of JSON.
"""

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench import base, pgd, records
from bench.ceilings import Ceilings
from bench.clock import forward_flops, quantiles, ratio, said
from bench.pgd import ALONE, COMPILED, FROZEN, LOOP, by_device, version_of
from bench.records import RESULTS, Answering, Row
from bench.session import Session
from bench.subjects.attacks import found, searched
from fastadv.runs.card import machine

NETS = [name for name, net in pgd.NETS.items() if net.counts[2]]
PEERS = ("torchattacks", "adv-lib", LOOP, COMPILED)
UNFROZEN = "fastadv fp32"
OURS = (*FROZEN, UNFROZEN)
PASSES = tuple(f"{ALONE}{precision}" for precision in ("fp32", "bf16"))
# glibc's: blocks of up to so many bytes are kept when they are freed
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(4 << 30))
DECIDES = (*KEPT, "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
WRITTEN = (":!bench/results", ":!docs", ":!*.md")  # by runs and by bench.page, without effect on a figure


class Way(NamedTuple):
    """A provider, and whether its process keeps the pages of all blocks that it frees."""

    provider: str
    kept: bool = False

    def environment(self) -> dict[str, str]:
        """Return that of this process, with glibc as the way has it; MALLOC_TOP_PAD_ stays."""
        left = {name: value for name, value in os.environ.items() if name not in DECIDES}
        return left | KEPT if self.kept else left


WAYS = tuple(Way(provider, kept) for provider in (*PEERS, *FROZEN) for kept in (False, True))
WAYS += tuple(map(Way, (UNFROZEN, *PASSES)))


@dataclass
class Taken:
    """Milliseconds and page faults of a way in each turn; `flops` of the passes of one call."""

    way: Way
    ms: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    found: Row = field(default_factory=dict)
    flops: float = 0


def measured(net: str, turns: int, places: Sequence[str], ways: Sequence[Way] = WAYS) -> list[Taken]:
    """Let the processes of a net take turns, of which every second begins with the last."""
    with ExitStack() as stack:
        workers = {}
        for way in ways:
            command = [sys.executable, "-m", "bench.anchor", "--net", net, "--provider", way.provider]
            workers[way] = stack.enter_context(closing(Answering([*command, *places], way.environment())))
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


def rows(taken: Sequence[Taken], ceilings: Ceilings) -> Iterator[Row]:
    """Yield a row for each way, with the rates of the machine at that time.

    The best of all peers is that whose median is the least, with its pages kept or not. Ways are compared
    turn by turn: the median of the ratios, and the 20th and the 80th percentile.
    """
    first = min((each for each in taken if each.way.provider in PEERS), key=lambda each: median(each.ms))
    alone = {searched(each.way.provider): each for each in taken if each.way.provider in PASSES}
    rates = {f"{name}_product_tflop_per_s": float(f"{rate:.4g}") for name, rate in ceilings.tflops.items()}
    rates["copy_gb_per_s"] = float(f"{ceilings.copy_gb_per_s:.4g}")
    for each in taken:
        provider, precision = each.way.provider, searched(each.way.provider)
        row = {"provider": provider, "pages_kept": each.way.kept, **quantiles(each.ms)}
        row |= {"faults": round(median(each.faults)), "turns": len(each.ms), **each.found}
        if provider in (*OURS, *PASSES):
            times = quantiles([a / b for a, b in zip(first.ms, each.ms, strict=True)])
            row |= {f"times_best{end}": round(times[f"{p}_ms"], 3) for end, p in ENDS.items()}
            row |= {"best": first.way.provider, "best_pages_kept": first.way.kept}
            row |= ceilings.share_of_products(each.flops, median(each.ms), precision)
        if provider in OURS:
            row["share_of_ceiling"] = round(ratio(alone[precision].ms, each.ms), 3)
            row["limit"] = round(ratio(first.ms, alone[precision].ms), 3)
        yield row | rates


ENDS = {"": "p50", "_p20": "p20", "_p80": "p80"}


class Worker:
    """One provider on one net, made and warmed when it is asked for."""

    def __init__(self, session: Session, net: str, provider: str, images: int | None, steps: int | None):
        self.session, self.net, self.provider = session, net, provider
        self.images, self.steps = images, steps
        self.call: Callable[[], Any] = lambda: None
        self.result: Any = None

    def warm(self) -> Row:
        """Call it once, and again where that took less than a second; say why it cannot run here."""
        try:
            full = pgd.problem(self.session, self.net)
            x, y = full.x[: self.images], full.y[: self.images]
            self.problem = replace(full, x=x, y=y, steps=self.steps or full.steps)
            self.call = by_device(self.session)[self.provider](self.problem)
            self.session.warmed(self.call)
        except Exception as error:
            return {"error": said(error)}
        return {}

    def turn(self) -> Row:
        """Measure one call, with the page faults that needed no disk."""

        def run() -> None:
            self.result = self.call()

        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = self.session.timed(run)
        return {"ms": taken, "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}

    def found(self) -> Row:
        """Judge the last result; after all turns, since it takes memory, too."""
        judged = {} if self.result is None else found(self.problem, self.result)
        if self.provider in pgd.PEERS:
            judged["version"] = version_of(self.provider)
        return {"what": pgd.what(self.problem), **judged}

    def flops(self) -> Row:
        """Count once for all providers, as counting takes seconds."""
        problem = self.problem
        of_one = 2 * forward_flops(problem.model, problem.x[:1])
        return {"flops": of_one * len(problem.x) * problem.steps}

    def answers(self, lines: Iterable[str]) -> Iterator[Row]:
        known = {"warm": self.warm, "turn": self.turn, "found": self.found, "flops": self.flops}
        return (known[line.strip()]() for line in lines)


def about() -> Row:
    """Return what every row says of its origin: a commit is marked unless results alone have changed."""
    origin = machine()
    if origin["commit"].endswith("+") and not base.git("status", "--porcelain", "-uno", "--", ".", *WRITTEN):
        origin["commit"] = origin["commit"].removesuffix("+")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"device": "cpu", "dtype": "float32", **origin, "date": now}


def main() -> None:
    parser = records.parser(__doc__, prog="python -m bench.anchor")
    parser.add_argument("--net", nargs="+", default=NETS, choices=NETS, help="which nets")
    parser.add_argument("--turns", type=int, default=5, help="timed calls of each process")
    parser.add_argument("--out", type=Path, default=RESULTS / "anchor_cpu.jsonl")
    parser.add_argument("--images", type=int, help="at most so many, to try it out")
    parser.add_argument("--steps", type=int, help="instead of the net's own, to try it out")
    parser.add_argument("--provider", help=argparse.SUPPRESS)
    records.add_places(parser, "data_dir", "weights")
    options = parser.parse_args()
    session = Session(torch.device("cpu"), data_dir=options.data_dir, weights=options.weights)
    if options.provider:
        worker, answers = (
            Worker(session, *options.net, options.provider, options.images, options.steps),
            sys.stdout,
        )
        with redirect_stdout(sys.stderr):  # libraries print, too
            for answer in worker.answers(sys.stdin):
                print(json.dumps(answer), file=answers, flush=True)
        return
    origin = about()
    places = records.arguments(options, "data_dir", "weights", "images", "steps")
    for net in options.net:
        ceilings = Ceilings.measured(session, products=True)
        for row in rows(measured(net, options.turns, places), ceilings):
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(row | origin) + "\n")


if __name__ == "__main__":
    main()
