"""Our attacks beside those of other packages, sample by sample: is any of ours weaker?"""

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from fastadv.attacks import AttackResult, Status, core
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
from fastadv.evaluation._conformance_cases import PACKAGES, Case, cases, installed
from fastadv.runs.memory import MIB, Peak
from fastadv.threat import THREATS

# By how much one side must be ahead on a sample for it to count: as a share of the distance of a nearest
# success, or of the way to the boundary. And the risk of a false alarm in all.
TOLERANCE, RISK = 0.01, 0.05
# Samples for those attacks of other packages that take many times as long as the others.
FEW = 20
Subject = tuple[nn.Module | Prepared, Mapping[str, float]]
"""A model, and by norm the radius at which it is attacked."""


@dataclass(frozen=True)
class Run:
    """What one attack did: successes, way and median over all samples, passes, seconds, MiB at the peak.

    success: share broken or already wrong. way: how far on the way to the boundary it got, on average, from 0
    at x to 1 at a success. median: of the distances, inf where half of them held. memory is None where the
    system does not tell it. flags: what is odd, such as points of theirs that were refused.
    """

    attack: str
    success: float
    way: float
    median: float
    forwards: int
    backwards: int
    seconds: float
    memory: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Our attack and one of theirs on one network, with what each found of every sample.

    Attributes:
        net: the name of the network.
        case: the name of the attack.
        norm: of the perturbation.
        ours: our run.
        theirs: the run of the other package.
        samples: how many were attacked.
        only_ours: numbers of the samples on which ours is ahead: it alone has broken them or, where neither
            has, led them farther on the way to the boundary, by more than TOLERANCE of it. For the nearest
            success, those that it brought nearer by more than TOLERANCE.
        only_theirs: the same for theirs.
    """

    net: str
    case: str
    norm: str
    ours: Run
    theirs: Run
    samples: int
    only_ours: tuple[int, ...]
    only_theirs: tuple[int, ...]

    @property
    def p(self) -> float:
        """The chance of this many samples for theirs, or more, if either side were as likely.

        It is that of the exact sign test over the samples on which one side is ahead.
        """
        count = len(self.only_ours) + len(self.only_theirs)
        tail = sum(math.comb(count, k) for k in range(len(self.only_theirs), count + 1))
        return float(tail / 2**count)

    def weaker(self, comparisons: int) -> bool:
        """Decide whether ours is weaker beyond chance, at 5% over all comparisons (Bonferroni).

        Args:
            comparisons: how many are made.

        Returns:
            Whether it is.
        """
        return self.p * comparisons < RISK


@dataclass(frozen=True)
class Conformance:
    """All comparisons of our attacks with those of other packages.

    Attributes:
        comparisons: in the order in which they were made.
        failed: attacks of others that raised an error, each with what it said.
    """

    comparisons: tuple[Comparison, ...]
    failed: Mapping[str, str]

    @property
    def weaker(self) -> tuple[Comparison, ...]:
        """Those in which ours is weaker beyond chance, with a risk of 5% of naming any by chance alone."""
        return tuple(one for one in self.comparisons if one.weaker(len(self.comparisons)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary.

        Returns:
            "comparisons", "weaker" and "failed", JSON-able but for infinite medians.
        """
        rows = [{**asdict(one), "p": one.p} for one in self.comparisons]
        names = [[one.net, one.case, one.norm, one.theirs.attack] for one in self.weaker]
        return {"comparisons": rows, "weaker": names, "failed": dict(self.failed)}


def conformance(
    subjects: Mapping[str, Subject],
    x: Tensor,
    y: Tensor,
    *,
    packages: Iterable[str] | None = None,
    only: Sequence[str] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Conformance:
    """Attack each model with ours and with the same attacks of other packages, on the same samples.

    Both sides get as many steps, searches or queries, and one seed; the same code judges successes. Where a
    budget does not break a sample, the margin that is left counts: the correct logit minus the largest other
    (with targets, the largest other minus the target's), as a share of that at x. So weakness shows on
    samples that both sides leave right. Attacks that take many times as long get the first 20 samples, and so
    do ours beside them.

    Args:
        subjects: by name a model of x [B, ...] in [0, 1] and its radius in each norm.
        x: [B, ...], images in [0, 1].
        y: int [B], labels.
        packages: some of torchattacks, foolbox, art and secmlt; None is those that are installed.
        only: attacks whose names begin so; None is all.
        seed: of the random draws of both sides.
        on_progress: called with the comparisons that are done and those to do.

    Returns:
        A `Conformance`.

    Raises:
        InputError: an unknown package, or nothing is left to compare.
    """
    chosen = installed() if packages is None else tuple(packages)
    if unknown := {*chosen} - {*PACKAGES}:
        raise InputError(f"packages: expected some of {', '.join(PACKAGES)}, got {', '.join(unknown)}")
    wanted = [case for case in cases() if only is None or case.name.startswith(tuple(only))]
    work = [(net, case) for net in subjects for case in wanted if {*case.peers} & {*chosen}]
    work = [(net, case) for net, case in work if case.norm in subjects[net][1]]
    if not work:
        raise InputError("packages, only: expected an attack that a package has too, got none; name others")
    found: list[Comparison] = []
    failed: dict[str, str] = {}
    for place, (net, case) in enumerate(work):
        found += _compared(net, subjects[net], case, x, y, chosen, seed, failed)
        if on_progress is not None:
            on_progress(place + 1, len(work))
    return Conformance(tuple(found), failed)


class Way:
    """How far points have come on the way from x to a success, by the margin of the model as given."""

    def __init__(self, model: nn.Module | Prepared, x: Tensor, y: Tensor, targets: Tensor | None) -> None:
        self.frozen, self.x, self.y, self.targets = prepare(model), x, y, targets
        self.start = self._margin(x)

    def _margin(self, points: Tensor) -> Tensor:
        return core.WRONG.margin(self.frozen.verdict(points), self.y, self.targets).double()

    def __call__(self, out: AttackResult) -> Tensor:
        """Return float64 [B]: 0 at x, 1 at a success, below 0 where the points lead away.

        It is NaN where x itself came back: some packages return it for every sample that held.
        """
        way = (1 - self._margin(out.x_adv) / self.start).nan_to_num(0, 0, 0).clamp_max(1)
        told = (out.x_adv != self.x).flatten(1).any(1)
        return way.masked_fill(~told, math.nan).masked_fill(out.success, 1).cpu()


def _compared(
    net: str, subject: Subject, case: Case, x: Tensor, y: Tensor, packages: tuple[str, ...], seed: int,
    failed: dict[str, str],
) -> list[Comparison]:  # fmt: skip
    model, radii = subject
    radius = radii[case.norm]
    threat = THREATS[case.norm](math.inf if case.minimum else radius)
    attack = case.ours(radius)
    found = []
    own: dict[int, tuple[Run, Tensor]] = {}
    for name, make, slow in case.rivals(packages, radius):
        count = min(len(x), FEW) if slow else len(x)
        given = x[:count], y[:count]
        aims = _next_class(model, *given) if case.targeted else None
        way = Way(model, *given, aims)
        run = partial(measured, way=way, minimum=case.minimum)
        asked: dict[str, Any] = {} if aims is None else {"targets": aims}
        if count not in own:
            seeded = {"seed": seed} if "seed" in inspect.signature(attack).parameters else {}
            own[count] = run(case.name, partial(attack, model, *given, threat, **seeded, **asked))
        try:
            theirs, other = run(name, partial(make(), model, *given, threat, seed=seed, **asked))
        except Exception as error:  # other people's code may raise anything
            failed[f"{net}, {name}, {case.norm}"] = f"{type(error).__name__}: {error}"[:200]
            continue
        ours, mine = own[count]
        mine = mine.nan_to_num(0)  # ours always say how far they came
        sides = _ahead(mine, other, case.minimum), _ahead(other, mine, case.minimum)
        found.append(Comparison(net, case.name, case.norm, ours, theirs, count, *sides))
    return found


def _next_class(model: nn.Module | Prepared, x: Tensor, y: Tensor) -> Tensor:
    """Return int [B], the class after the label."""
    return (y + 1) % prepare(model).verdict(x[:1]).shape[1]


def measured(
    name: str, call: Callable[[], AttackResult], way: Way, minimum: bool = False
) -> tuple[Run, Tensor]:
    """Return what an attack did, and of each sample [B] how far it came or, for `minimum`, its distance."""
    peak = Peak(way.x.device)
    started = time.perf_counter()
    out = call()
    distance = out.distance.double().masked_fill(out.status == int(Status.ALREADY_WRONG), 0)
    distance = distance.masked_fill(~out.success, math.inf).cpu()
    seconds = time.perf_counter() - started
    taken, reached = peak.read(), way(out)
    median = distance.quantile(0.5, interpolation="higher").item()
    share = out.success.double().mean().item()
    passes = int(out.forwards), int(out.backwards)
    memory = None if taken is None else taken / MIB
    run = Run(name, share, reached.nan_to_num(0).mean().item(), median, *passes, seconds, memory, out.flags)
    return run, distance if minimum else reached


def _ahead(one: Tensor, other: Tensor, minimum: bool) -> tuple[int, ...]:
    """Return the numbers of the samples on which `one` is ahead."""
    nearer, farther = one * (1 + TOLERANCE) < other, (one > other + TOLERANCE) | ((one == 1) & (other != 1))
    ahead = nearer if minimum else farther
    return tuple(ahead.nonzero().flatten().tolist())
