"""Measure every attack and the best other implementations of it, with equal passes, on nets of nine kinds.

    python -m bench.suite.parity [--only fmn ddn] [--net linf l2] [--variant full quick] [--again ours peers]

The long runs fill bench/results/parity.jsonl, the rows of docs/parity.md (`python -m bench.suite.wall` writes
the page). The short ones are of the peers alone and fill tests/attacks/parity.jsonl, with which
tests/parity/wall.py compares. What is stored already is left alone unless --again names it, so that a stopped
run goes on. Values do not depend on the machine's load; tests/parity/peers.py says how to get the peers. All
of it is about three hours of one core.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import records
from bench.clock import wall
from fastadv.card import machine
from tests.parity.case import Budget, Case
from tests.parity.cases import TESTED, cases_on, held, radii
from tests.parity.models import DENSE, KEPT, KEPT_RUNS, NETS, WALL, add_places, problem
from tests.parity.peers import Peer
from tests.parity.store import STORES, Row, key, save, stored
from tests.parity.verdict import OURS, Outcome, best, judge, passes

Problem = tuple[nn.Module, Tensor, Tensor]


def head(case: Case, net: str, variant: str, radius: float, package: str, settings: str) -> Row:
    """What was run, with all of the key in it."""
    return {"case": case.name, "attack": case.attack, "norm": case.norm, "net": net, "variant": variant,
            "radius": radius, "package": package, "settings": settings}  # fmt: skip


def draws(case: Case, net: str, variant: str) -> Sequence[Budget]:
    every = case.draws(variant)
    return every[: max(KEPT_RUNS, len(every) // 3)] if net in KEPT else every


def where() -> Row:
    date = datetime.now(UTC).date().isoformat()
    return {"date": date, **{name: machine()[name] for name in ("torch", "commit", "cpu")}}


def found(
    case: Case, given: Problem, runs: Sequence[Tensor], radius: float, forwards: int, backwards: int
) -> Row:
    """What the points of these runs are worth at the radius, and where and when they were found."""
    model, x, y = given
    judged = [judge(model, x, y, x_adv, case.norm, radius) for x_adv in runs]
    outcome = Outcome([distance for one in judged for distance in one.distances])
    return {"images": len(x) * len(runs), **outcome.figures(radius), "forwards": forwards,
            "backwards": backwards, **where(), "distances": outcome.distances}  # fmt: skip


def failed(row: Row, error: Exception) -> Row:
    return row | where() | {"error": f"{type(error).__name__}: {error}"[:200]}


def theirs(case: Case, net: str, peer: Peer, variant: str, given: Problem) -> Iterator[Row]:
    """The rows of a peer; none where it is not installed, and the error where it fails."""
    model, x, y = given
    counting, budget = Counting(model), case.budget(variant)
    about = {"version": peer.version, "budget": dict(budget)}
    rows = [head(case, net, variant, at, peer.package, peer.settings) | about for at in radii(case, net)]
    try:
        runs = [peer.run(counting, x, y, case.radius, **draw, **budget) for draw in draws(case, net, variant)]
    except ImportError as error:
        print(f"{case.name}: {peer.package} is left out: {error}")
    except Exception as error:  # other people's code may raise anything
        yield from (failed(row, error) for row in rows)
    else:
        spent = counting.forwards, counting.backwards
        yield from (row | found(case, given, runs, row["radius"], *spent) for row in rows)


def ours(
    case: Case, net: str, variant: str, radius: float, given: Problem, rivals: Sequence[Row]
) -> Iterator[Row]:
    """Our row, with the passes of the best rival where queries are our budget."""
    model, x, y = given
    rival = best(rivals)
    spent = passes(rival) if rival else 1000
    about = {"version": machine()["commit"], "budget": dict(case.budget(variant))}
    row = head(case, net, variant, radius, OURS, "") | about
    if not case.exists:
        yield row | where() | {"error": "there is none"}
        return
    try:
        outs = [case.run(model, x, y, variant, spent, radius, **draw) for draw in draws(case, net, variant)]
    except Exception as error:  # it counts as worse, and the run goes on
        yield failed(row, error)
    else:
        done = sum(int(out.forwards) for out in outs), sum(int(out.backwards) for out in outs)
        yield row | found(case, given, [out.x_adv for out in outs], radius, *done)


def measured(
    case: Case, net: str, variant: str, again: Sequence[str], have: Callable[[], list[Row]], given: Problem
) -> Iterator[Row]:
    """What is wanted of a case on a net and not stored yet, the peers first."""
    rows = have()
    known = {key(row) for row in rows}
    for peer in case.peers:
        wanted = [head(case, net, variant, at, peer.package, peer.settings) for at in radii(case, net)]
        if "peers" in again or not known.issuperset(map(key, wanted)):
            same = [] if "peers" in again else list(elsewhere(rows, wanted, case.budget(variant)))
            yield from same if len(same) == len(wanted) else theirs(case, net, peer, variant, given)
    for radius in radii(case, net) if variant == "full" else ():
        if "ours" in again or key(head(case, net, variant, radius, OURS, "")) not in known:
            this = ("case", "net", "variant", "radius"), (case.name, net, variant, radius)
            rivals = [row for row in have() if tuple(map(row.get, this[0])) == this[1]]
            rivals = [row for row in rivals if row["package"] != OURS]
            yield from ours(case, net, variant, radius, given, rivals)


def elsewhere(rows: Sequence[Row], wanted: Sequence[Row], budget: Mapping[str, Any]) -> Iterator[Row]:
    """The same run of a peer, stored for another case: the versions of AutoAttack have one rival."""
    parts = ("net", "variant", "attack", "norm", "radius", "package", "settings")
    for row in wanted:
        for known in rows:
            if known["budget"] == budget and all(known[part] == row[part] for part in parts):
                yield known | row
                break


def chosen(options: argparse.Namespace) -> Iterator[tuple[Case, str, str]]:
    """Cases, nets and variants as asked for: a case on all nets, then the next."""
    for variant in options.variant:
        asked = (*WALL, *KEPT, *DENSE) if variant == "full" else TESTED
        nets = [net for net in asked if net in (options.net or NETS)]
        for in_turn in zip_longest(*map(cases_on, nets)):
            for case, net in zip(in_turn, nets, strict=True):
                named = case and (not options.only or case.name.startswith(tuple(options.only)))
                if named and (variant == "full" or held(case, net)):
                    yield case, net, variant


def short(row: Row) -> str:
    figures = ("median", "robust_accuracy", "forwards", "backwards", "error")
    names = ("case", "net", "package", "settings", "radius", *figures)
    return "  ".join(f"{name} {row[name]}" for name in names if name in row)


class Log(list[tuple[str, int]]):
    """The batches that passed, each "forward" or "backward" and its size; a copy of a model shares it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Log":
        return self

    def samples(self, way: str) -> int:
        return sum(size for which, size in self if which == way)


class Counting(nn.Module):
    """A model that logs the samples that pass forward, and those whose gradient comes back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.log = model, Log()
        self.train(model.training)

    @property
    def forwards(self) -> int:
        return self.log.samples("forward")

    @property
    def backwards(self) -> int:
        return self.log.samples("backward")

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(("forward", len(x)))
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, grad: Tensor) -> None:
        self.log.append(("backward", len(grad)))


def alone(model: nn.Module, x: Tensor, y: Tensor, turns: int = 5) -> Callable[[Log], float]:
    """A function that says how many seconds logged batches take with nothing around them.

    Each goes through the faster of the model and its frozen twin. Powers of two are timed, each once for all
    logs; between two of them the time is a straight line.
    """
    frozen = fa.freeze(model)

    def gradient(points: Tensor, labels: Tensor) -> None:
        points = points.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(points), labels, reduction="sum")
        torch.autograd.grad(loss, points)

    def forward(points: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            model(points)

    def best(points: Tensor, labels: Tensor, *ways: Callable[[Tensor, Tensor], object]) -> float:
        taken = ([wall(partial(way, points, labels))[0] for _ in range(turns)] for way in ways)
        return min(map(statistics.median, taken))

    @cache
    def seconds(size: int) -> dict[str, float]:
        rows = torch.arange(size, device=x.device) % len(x)
        points, labels = x[rows], y[rows]
        once = best(points, labels, forward, lambda points, labels: frozen(points))
        both = best(points, labels, gradient, frozen.input_gradient)
        return {"forward": once, "backward": both - once}

    def between(way: str, size: int) -> float:
        low = 1 << (size.bit_length() - 1)
        more = size / low - 1
        return (1 - more) * seconds(low)[way] + (more and more * seconds(2 * low)[way])

    return lambda log: sum(between(way, size) for way, size in log)


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--only", nargs="+", help="cases whose names begin so")
    parser.add_argument("--net", nargs="+", choices=NETS, help="nets, all of the table unless given")
    parser.add_argument("--variant", nargs="+", default=["full"], choices=STORES)
    parser.add_argument("--again", nargs="+", default=[], choices=["ours", "peers"], help="measure anew")
    parser.add_argument("--out", type=Path, help="the file that is read and written in place of both")
    add_places(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problems: dict[tuple[str, int], Problem] = {}
    for case, net, variant in chosen(options):
        path = options.out or STORES[variant]
        wanted = net, case.count(variant)
        if wanted not in problems:
            problems[wanted] = problem(*wanted, options.data_dir, options.weights)
        have = lambda path=path: stored(path)  # noqa: E731
        for row in measured(case, net, variant, options.again, have, problems[wanted]):
            if variant == "full":
                row.pop("distances", None)
            save([*stored(path), row], path)
            print(short(row), flush=True)


if __name__ == "__main__":
    main()
