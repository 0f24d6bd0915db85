"""An audit of an evaluation: some of the samples that hold, drawn at random, attacked with everything.

What the auditor breaks of them bounds what it would break of all: a cheap attack of all samples, and an audit
of a few, tell what the expensive attack of all would leave.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastadv._checks import check_count, check_number, check_share, knowing_fields
from fastadv.attacks.core.common import planned
from fastadv.errors import InputError
from fastadv.intervals import of_population
from fastadv.measure.attacks import function_of
from fastadv.measure.bound import Attack
from fastadv.measure.outcome import NOT_RUN
from fastadv.text import finite, percent, several
from fastadv.threat import Threat

WEAK = 0.05  # the share of an audit's samples above which the screen is not enough
THESE = "these samples"  # whose accuracy it is
FIGURES = (
    "attack", "within", "n", "held", "drawn", "broken", "low", "high", "missed", "confidence", "asked",
    "seconds", "forwards", "backwards",
)  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """How many of the samples that hold are drawn, and what attacks them.

    Args:
        attack: the auditor, a name or a function as in `fastadv.evaluate`.
        samples: how many of the samples that hold in a threat are drawn, at random and without replacement.
        seconds: the audit stops before the batch that would pass this limit; None, the default, sets none.
        confidence: the probability of the interval, between 0 and 1.

    Raises:
        InputError: an argument is out of range.
    """

    attack: Attack | str = "autoattack"
    samples: int = 500
    seconds: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check_count("samples", self.samples, 1)
        check_share("confidence", self.confidence)
        if self.seconds is not None and check_number("seconds", self.seconds, 0) == 0:
            raise InputError(f"seconds: expected a number above 0, got {self.seconds!r}")

    @classmethod
    def of(cls, asked: Any) -> "Audit | None":
        """Return the audit of so many samples, the audit itself, or None."""
        if asked is None or isinstance(asked, Audit):
            return asked
        if isinstance(asked, bool) or not isinstance(asked, int):
            raise InputError(
                f"audit: expected a number of samples or an Audit, got {asked!r}; pass audit=500"
            )
        return cls(samples=asked)

    @property
    def work(self) -> int:
        """The passes that are planned for all samples."""
        return planned(function_of("audit", self.attack)) * self.samples


knowing_fields(Audit)


@dataclass(frozen=True)
class Audited:
    """What an auditor found among the samples that hold under the attacks of an evaluation, in one threat.

    `low` to `high` is where the robust accuracy of these samples lies under the attacks and the auditor
    together: an interval over what else could have been drawn, exact for a finite population (hypergeometric,
    both tails alike). That other images would differ is another matter, of which `Row.accuracy_interval` is.

    Attributes:
        attack: the auditor, as papers call it.
        threat: the threat, None where rows do not tell it.
        within: the same in words.
        n: the samples of the evaluation.
        held: those that hold under the attacks, from which was drawn.
        ids: int64 [drawn], their positions in the data set, in the order in which they were drawn.
        success: bool [drawn], which of them the auditor broke.
        confidence: the probability of the interval.
        seconds: the time that their attack took.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
        asked: how many were to be drawn; more than were, where a limit of seconds stopped the audit.
        flags: warnings of the auditor that cast doubt on the result.
    """

    attack: str
    threat: Threat | None = field(repr=False)
    within: str
    n: int
    held: int
    ids: Tensor = field(repr=False)
    success: Tensor = field(repr=False)
    confidence: float
    seconds: float
    forwards: int
    backwards: int
    asked: int
    flags: tuple[str, ...] = ()

    @property
    def drawn(self) -> int:
        """How many were attacked by the auditor."""
        return len(self.ids)

    @property
    def broken(self) -> int:
        """How many of them it broke."""
        return int(self.success.sum())

    @property
    def missed(self) -> tuple[int, int]:
        """The ends for the number of all samples that hold and that the auditor would break."""
        return of_population(self.broken, self.drawn, self.held, self.confidence)

    @property
    def low(self) -> float:
        """The lower end of the robust accuracy of these samples."""
        return (self.held - self.missed[1]) / self.n

    @property
    def high(self) -> float:
        """The upper end."""
        return (self.held - self.missed[0]) / self.n

    @property
    def estimate(self) -> float:
        """The robust accuracy of these samples as the drawn ones have it; NaN where none was drawn."""
        if not self.drawn:
            return math.nan if self.held else 0.0
        return self.held * (1 - self.broken / self.drawn) / self.n

    @property
    def weak(self) -> str:
        """Say that the audit found too much, or could find nothing; "" where neither is so."""
        if any(flag.startswith(NOT_RUN) for flag in self.flags):
            return "the auditor could not run, as the model has no gradient"
        if self.broken <= WEAK * self.drawn:
            return ""
        return f"the audit broke {percent(self.broken / self.drawn)} of the samples that it drew"

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"audited by {self.attack}, {THESE}"

    @property
    def spent(self) -> list[str]:
        """The forwards, backwards and seconds as text."""
        return [f"{self.forwards:,}", f"{self.backwards:,}", f"{self.seconds:.1f}"]

    @property
    def ends(self) -> str:
        """The interval as text."""
        return f"{percent(self.low, 2)} to {percent(self.high, 2)}"

    def __str__(self) -> str:
        left = f"{several(self.held, 'sample')} that the attacks left"
        drawn = f"{self.broken:,} of {self.drawn:,} drawn from {left}"
        stopped = f" (its limit of seconds ended it before {self.asked:,})" * (self.drawn < self.asked)
        sure = "" if self.drawn == self.held else f", {100 * self.confidence:.10g}% sure"
        return (
            f"audit, {self.within}: {self.attack} broke {drawn}{stopped}; of these "
            f"{several(self.n, 'sample')} {self.ends} are right under all attacks and it{sure}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON; low, high and estimate are of these samples."""
        figures = {name: getattr(self, name) for name in FIGURES}
        return {
            **figures,
            "estimate": finite(self.estimate),
            "flags": list(self.flags),
            "of": THESE,
        }

    def record(self) -> dict[str, Any]:
        """Return a line of the table as a dictionary: its interval has a column of its own."""
        norm = self.threat and self.threat.norm
        radius = self.threat and finite(float(self.threat.radius))
        line = {"attack": self.title, "norm": norm, "radius": radius, "accuracy": finite(self.estimate)}
        told = ("held", "drawn", "confidence", "forwards", "backwards", "seconds")
        figures = {name: getattr(self, name) for name in told}
        return {**line, THESE: [self.low, self.high], "broken of drawn": self.broken, **figures}
