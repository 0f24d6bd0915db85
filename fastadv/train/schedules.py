"""Learning rates over a run: schedules by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastadv._checks import check_choice, check_number, check_share
from fastadv.errors import InputError

Schedule = Callable[[float], float]
"""The factor on the learning rate as a function of the share of training done, from 0 to 1."""


@dataclass(frozen=True)
class Piecewise:
    """A learning rate that is multiplied by a factor at each milestone.

    By default it is a tenth at 1/2 and 3/4, as in the source (epochs 100 and 150 of 200). TRADES has (0.75,
    0.9), Pang et al. 2021 (100 / 110, 105 / 110).

    Args:
        milestones: shares of training, in increasing order.
        factor: at each of them, in (0, 1].

    Source:
        Rice, Wong, Kolter 2020, "Overfitting in Adversarially Robust Deep Learning" (arXiv 2002.11569).
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        shares = tuple(check_share("milestones", share) for share in self.milestones)
        if not shares or list(shares) != sorted(set(shares)):
            raise InputError(f"milestones: expected increasing shares of training, got {self.milestones}")
        check_share("factor", self.factor)
        object.__setattr__(self, "milestones", shares)

    def __call__(self, done: float) -> float:
        return float(self.factor ** sum(done >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class Cyclic:
    """A learning rate that rises linearly to 1 at the share `peak` of training, then falls to 0.

    By default it is that of the source on MNIST, except that it begins at 0.04 rather than 0, so that the
    first step is not wasted. On CIFAR-10 they have Cyclic(0.5, 0.0), by name "cyclic_half".

    Args:
        peak: the share of training, in (0, 1), at which the factor is 1.
        start: the first factor, in [0, 1].

    Source:
        Wong, Rice, Kolter 2020 (arXiv 2001.03994).
    """

    peak: float = 0.4
    start: float = 0.04

    def __post_init__(self) -> None:
        check_share("peak", self.peak)
        check_share("start", self.start, zero=True)

    def __call__(self, done: float) -> float:
        if done < self.peak:
            return self.start + (1 - self.start) * done / self.peak
        return (1 - done) / (1 - self.peak)


@dataclass(frozen=True)
class OneCycle:
    """A learning rate from 1/25 up to 1 at the share `peak` of training, down to 1/250000, along cosines.

    torch's OneCycleLR is the same, except that it ends one step earlier.

    Args:
        peak: the share of training, in (0, 1), at which the factor is 1.
        momentum: None leaves it constant; (low, high) moves it against the learning rate: high at both ends,
            low at the peak. torch's OneCycleLR has (0.85, 0.95), by name "one_cycle_momentum". With Adam it
            is the first beta.
    """

    peak: float = 0.3
    momentum: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_share("peak", self.peak)
        if self.momentum is not None:
            low, high = (check_share("momentum", end, zero=True) for end in self.momentum)
            if low > high:
                raise InputError(f"momentum: expected the lower one first, got {self.momentum}")
            object.__setattr__(self, "momentum", (low, high))

    def __call__(self, done: float) -> float:
        return self._along(done, 1 / 25, 1, 1 / 25e4)

    def _momentum_at(self, done: float) -> float:
        """Return the momentum, if it moves, at a share of training from 0 to 1."""
        low, high = self.momentum or (0.0, 0.0)
        return self._along(done, high, low, high)

    def _along(self, done: float, start: float, peak: float, end: float) -> float:
        share = done / self.peak
        if done >= self.peak:
            start, peak, share = peak, end, (done - self.peak) / (1 - self.peak)
        return peak + (start - peak) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** int(3 * done),
    "piecewise": Piecewise(),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "cyclic": Cyclic(),
    "cyclic_half": Cyclic(0.5, 0.0),
    "one_cycle": OneCycle(),
    "one_cycle_momentum": OneCycle(momentum=(0.85, 0.95)),
}
DEFAULT = "cosine"


def find_schedule(schedule: str | Schedule) -> Schedule:
    """Find the schedule of that name, or take the function. InputError unless its factors are finite."""
    other = " or a function of the share of training done"
    if not callable(factor := schedule):
        factor = SCHEDULES[check_choice("schedule", schedule, SCHEDULES, other)]
    for done in (0.0, 0.5, 1.0):
        check_number(f"schedule({done})", factor(done))
    return factor
