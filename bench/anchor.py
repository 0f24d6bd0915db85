"""PGD against the best of all peers, each in a process of its own that is fresh for the net.

    python -m bench.anchor [--net cnn mlp small_cnn resnet18] [--turns 5]
                           [--data-dir DIR --weights vanilla_cnn.net] [--out FILE]

torchattacks, adv-lib, a loop by hand and a compiled one run with freed pages kept by the C library and
without, and the fastest of these eight is what counts. fastadv runs as a user has it, and with all pages
kept. All processes of a net take turns, one call each, so that slow moments of the machine hit all alike. The
rows are appended to bench/results/anchor_cpu.jsonl, net by net, and `python -m bench.page` writes the tables.
With five turns it takes up to 20 minutes on two cores.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench import pgd, records
from bench.clock import Ceilings, forward_flops, quantiles, ratio, said
from bench.pgd import ALONE, COMPILED, FROZEN, LOOP, by_device, version_of
from bench.records import RESULTS, ROOT, Answering, Row
from bench.session import Session
from bench.subjects.attacks import found, searched
from fastadv.card import machine

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
            if error := workers[way].answer().get("error"):  # without one peer there is no best of all
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


def answers(session: Session, net: str, provider: str, given: Row, lines: Iterable[str]) -> Iterator[Row]:
    """What the process of a provider says when it is warm, or cannot be, and of each line's word."""
    try:
        problem = pgd.problem(session, net)
        cut = slice(given["images"])
        problem = replace(problem, x=problem.x[cut], y=problem.y[cut], steps=given["steps"] or problem.steps)
        call, results = by_device(session)[provider](problem), list[Any]()
        session.warmed(call)
    except Exception as error:
        yield {"error": said(error)}
        return

    def run() -> None:
        results[:] = [call()]

    yield {}
    for word in map(str.strip, lines):
        if word == "turn":
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            taken = session.timed(run)
            yield {"ms": taken, "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}
        elif word == "flops":  # once for all providers, as counting takes seconds
            passes = 2 * forward_flops(problem.model, problem.x[:1]) * problem.steps
            yield {"flops": passes * len(problem.x)}
        else:  # after all turns, since it takes memory, too
            judged = {} if results[0] is None else found(problem, results[0])
            judged |= {"version": version_of(provider)} if provider in pgd.PEERS else {}
            yield {"what": pgd.what(problem), **judged}


def about() -> Row:
    """Return what every row says of its origin: a commit is marked unless results alone have changed."""
    origin = machine()
    changed = ["git", "status", "--porcelain", "-uno", "--", ".", *WRITTEN]
    if not subprocess.run(changed, cwd=ROOT, capture_output=True).stdout:
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
        to, here = sys.stdout, (session, *options.net, options.provider, vars(options))
        with redirect_stdout(sys.stderr):  # libraries print, too
            for answer in answers(*here, sys.stdin):
                print(json.dumps(answer), file=to, flush=True)
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
