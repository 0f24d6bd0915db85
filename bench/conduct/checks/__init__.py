"""The fifteen checks: each runs one attack on tiny models, in a second or so, and says what it saw."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.conduct.attack import Attack

RIGHT, WRONG, ABSENT = "right", "wrong", "not applicable"
OUTCOMES = (RIGHT, WRONG, ABSENT)


@dataclass(frozen=True)
class Finding:
    """What a check saw of an attack: an outcome, and the figure that shows it."""

    outcome: str
    text: str


Check = Callable[[Attack], Finding]


def judged(fine: bool, text: str) -> Finding:
    return Finding(RIGHT if fine else WRONG, text)


def absent(why: str) -> Finding:
    return Finding(ABSENT, why)


def said(error: Exception) -> str:
    """An error in a few words."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:80]}" if first else type(error).__name__
