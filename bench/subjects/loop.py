"""A plain call of PGD-40 in L-infinity beside the loop of the papers, fifteen lines by hand.

First, steps that a CUDA graph replays are compared with single ones. Then all providers take turns, warm,
each on a copy of the net, so that none makes another's graphs leave. `outside_ms` is what a call takes beyond
its replays. Goals, in times of the loop's speed: MLP 6 with one image, 5 with 1,024, at most 1.2 ms outside;
CNN 2 with 64, 1 with 1,000; small CNN 2; ResNet-18 1.5 with 64, 0.93 with 512; a first call 0.67.

`python -m bench.subjects.loop NET PROVIDER` prints the milliseconds of a first call on 64 images.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import fastadv as fa
from bench import pgd
from bench.clock import repeatable, wall
from bench.pgd import LOOP, NETS, Make, what
from bench.records import apart
from bench.session import Case, Row, Session
from fastadv._waiting import waits
from fastadv.engine import Frozen, Plain
from fastadv.engine.capture import Graph, graphs_of

STEPS, IMAGES = 40, 64
COUNTS = {"mlp": (1, 1024), "cnn": (IMAGES, 1000), "small_cnn": (IMAGES,), "resnet18": (IMAGES, 512)}
OURS, REPLAYS = "fastadv plain", "its replays alone"
LINF, L2 = fa.Linf(0.004), fa.L2(0.1)  # in which each attack breaks a part of the images
CAPTURED = (("pgd", LINF), ("pgd", L2), ("mim", LINF), ("apgd", LINF))
ROUNDING = 16  # one status of so many may differ, where sums are taken in another order


def cases(session: Session) -> Iterator[Case]:
    for name in session.size(("mlp", "small_cnn"), ("mlp",)):
        yield Case(f"replayed steps, {NETS[name].label}", partial(replays_alike, session, name))
    for name, counts in COUNTS.items():
        for count in counts:
            label = f"PGD-{STEPS} {NETS[name].label}, {count} images"
            yield Case(label, partial(measured, session, name, count), needs=10)
    for name in ("mlp", "resnet18"):
        yield Case(f"first call, {NETS[name].label}", partial(first_calls, name), needs=30)


def problem(session: Session, name: str, count: int) -> pgd.Problem:
    problem = pgd.problem(session, name, session.size(count, min(count, 4)))
    return replace(problem, steps=session.size(STEPS, 10))


@contextmanager
def uncaptured() -> Iterator[None]:
    """Let searches take single steps; also a decorator."""
    single = {"attribute": "captures", "return_value": None}
    with patch.object(Plain, **single), patch.object(Frozen, **single):
        yield


PROVIDERS: dict[str, Make] = {
    LOOP: lambda given: partial(pgd.plain, given),
    OURS: lambda given: partial(pgd.ours, given, given.model),
    "fastadv, early stop": lambda given: partial(pgd.ours, given, given.model, stop_early=True),
    "fastadv, not captured": lambda given: partial(uncaptured()(pgd.ours), given, given.model),
}


def replayed(call: Callable[[], Any]) -> tuple[Any, list[Graph], int]:
    """Call twice; return the second result, the graphs that it took steps from, and how many steps."""
    call()
    with patch.object(Graph, "run", autospec=True, side_effect=Graph.run) as run:
        found = call()
    taken = [each.args for each in run.call_args_list]
    return found, [graph for graph, *_ in taken], sum(times for *_, times in taken)


def replays_alike(session: Session, name: str) -> Iterator[Row]:
    given = problem(session, name, IMAGES)
    model, x, y, steps = given.model, given.x, given.y, {"steps": 50}  # of APGD, fewer are not captured
    for stop_early in (False, True):
        for attack, threat in CAPTURED:
            call = partial(getattr(fa.attacks, attack), model, x, y, threat, stop_early=stop_early, **steps)
            yield compared(f"{attack} {type(threat).__name__}{', early stop' * stop_early}", call)
    for threat in (LINF, L2):
        call = partial(fa.attacks.square, model, x, y, threat, queries=200)
        yield compared(f"square {type(threat).__name__}", call)
    last = partial(fa.attacks.last_iterate, model, x, y, LINF, step_size=LINF.radius / 4, **steps)
    yield compared("last_iterate", last)


def compared(label: str, call: Callable[[], Any]) -> Row:
    """Return in how many rows a call that replays steps differs from one that takes single steps."""
    with repeatable():
        wanted = uncaptured()(call)()
        found, _, count = replayed(call)
    x_adv, other = (out if isinstance(out, Tensor) else out.x_adv for out in (found, wanted))
    row: Row = {"provider": f"fastadv {label}", "replays": count, "samples": len(x_adv)}
    row["rows_apart"] = int((x_adv != other).flatten(1).any(1).sum())
    assert count or not waits(x_adv.device), f"{label}: no step was replayed"
    if found is not x_adv:
        row["status_apart"] = int((found.status != wanted.status).sum())
        row["broken"], row["broken_by_steps"] = (int(out.success.sum()) for out in (found, wanted))
        assert row["status_apart"] * ROUNDING <= len(x_adv), f"{label}: {row}"
    return row


def measured(session: Session, name: str, count: int) -> Iterator[Row]:
    """Yield a row of each provider and of the replays of a plain call; a small net without any fails."""
    given = problem(session, name, count)
    nets = {provider: copy.deepcopy(given.model) for provider in PROVIDERS}
    ways = {provider: make(replace(given, model=nets[provider])) for provider, make in PROVIDERS.items()}
    _, graphs, steps = replayed(ways[OURS])
    kept = bool(graphs) and graphs[0] in graphs_of(nets[OURS])
    if kept:
        ways[REPLAYS] = partial(graphs[0].run, lambda rows: bool, steps)
    rows = [*session.compare(ways, LOOP, "times_plain")]
    taken = {row["provider"]: median(values) for row, values in rows if values}
    for row, _ in rows:
        if row["provider"] == OURS:
            row |= {"graph_kept": kept, "replays": steps}
            if {OURS, REPLAYS} <= taken.keys():
                row["outside_ms"] = round(taken[OURS] - taken[REPLAYS], 4)
        yield {"what": what(given), **row}
    assert kept or name == "resnet18" or not waits(given.x.device), "no graph was kept"


def first_calls(name: str) -> Iterator[Row]:
    # the first process leaves compiled kernels to the others
    taken = {provider: apart("bench.subjects.loop", name, provider) for provider in (OURS, LOOP, OURS)}
    for provider, first in taken.items():
        row: Row = {"what": f"first call, {IMAGES} images, {NETS[name].label}", "provider": provider}
        yield row | {"first_ms": round(first, 3), "times_plain": round(taken[LOOP] / first, 2)}


if __name__ == "__main__":
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    session = Session(device, tiny=device.type == "cpu")
    print(1000 * wall(PROVIDERS[sys.argv[2]](problem(session, sys.argv[1], IMAGES)))[0])
