"""Our attacks beside those of other packages, sample by sample: is any of ours weaker?"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult, Status
from fastadv.engine import Frozen
from fastadv.errors import InputError
from fastadv.evaluation._conformance_cases import PACKAGES, Case, cases, installed
from fastadv.threat import THREATS

# how much farther a nearest success may be and still count as as near; and the risk of a false alarm in all
TOLERANCE, RISK = 0.01, 0.05
Subject = tuple[nn.Module | Frozen, Mapping[str, float]]
"""A model, and by norm the radius at which it is attacked."""


@dataclass(frozen=True)
class Run:
    """What one attack did: successes and median over all samples, passes, seconds, MiB at the peak.

    success: share broken or already wrong. median: of the distances, inf where half of them held. memory is
    None where the system does not tell it. flags: what is odd, such as points of theirs that were refused.
    """

    attack: str
    success: float
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
        only_ours: numbers of the samples that ours alone has broken or, for the nearest success, has brought
            nearer by more than TOLERANCE.
        only_theirs: the same for theirs.
    """

    net: str
    case: str
    norm: str
    ours: Run
    theirs: Run
    only_ours: tuple[int, ...]
    only_theirs: tuple[int, ...]

    @property
    def p(self) -> float:
        """The chance of this many samples for theirs, or more, if either side were as likely.

        It is that of the exact sign test, which is McNemar's for successes.
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

    Both sides get as many steps, searches or queries, and one seed; the same code judges successes.

    Args:
        subjects: by name a model of x [B, ...] in [0, 1] and its radius in each norm.
        x: [B, ...], images in [0, 1].
        y: int [B], labels.
        packages: some of torchattacks, foolbox and art; None is those that are installed.
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


def _compared(
    net: str, subject: Subject, case: Case, x: Tensor, y: Tensor, packages: tuple[str, ...], seed: int,
    failed: dict[str, str],
) -> list[Comparison]:  # fmt: skip
    model, radii = subject
    radius = radii[case.norm]
    threat = THREATS[case.norm](math.inf if case.minimum else radius)
    seeded = {"seed": seed} if case.name in ("pgd", "apgd", "square") else {}
    attack = case.ours(radius)
    ours, own = measured(case.name, partial(attack, model, x, y, threat, **seeded))
    found = []
    for name, rival in case.rivals(packages, radius):
        try:
            theirs, other = measured(name, partial(rival, model, x, y, threat, seed=seed))
        except Exception as error:  # other people's code may raise anything
            failed[f"{net}, {name}, {case.norm}"] = f"{type(error).__name__}: {error}"[:200]
            continue
        sides = _alone(own, other, case.minimum), _alone(other, own, case.minimum)
        found.append(Comparison(net, case.name, case.norm, ours, theirs, *sides))
    return found


def measured(name: str, call: Callable[[], AttackResult]) -> tuple[Run, Tensor]:
    """Return what an attack did, and its distances [B], inf where it found nothing."""
    peak = _Peak()
    started = time.perf_counter()
    out = call()
    distance = out.distance.double().masked_fill(out.status == int(Status.ALREADY_WRONG), 0)
    distance = distance.masked_fill(~out.success, math.inf).cpu()
    seconds = time.perf_counter() - started
    median = distance.quantile(0.5, interpolation="higher").item()
    share = out.success.double().mean().item()
    passes = int(out.forwards), int(out.backwards)
    return Run(name, share, median, *passes, seconds, peak.read(), out.flags), distance


def _alone(one: Tensor, other: Tensor, minimum: bool) -> tuple[int, ...]:
    """Return the numbers of the samples that `one` alone has broken, or has brought nearer."""
    ahead = one * (1 + TOLERANCE) < other if minimum else one.isfinite() & ~other.isfinite()
    return tuple(ahead.nonzero().flatten().tolist())


class _Peak:
    """How many MiB the resident set grows at most, on Linux, or what CUDA has given out."""

    def __init__(self) -> None:
        self.before: float | None = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is that from now on
            self.before = self._status("VmRSS")
        except (OSError, StopIteration):
            pass

    def read(self) -> float | None:
        """Return the growth since; None where it is not told."""
        if self.before is None:
            return None
        if torch.cuda.is_available():
            return max(torch.cuda.max_memory_allocated() - self.before, 0) / 2**20
        return max(self._status("VmHWM") - self.before, 0) / 2**20

    def _status(self, name: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
