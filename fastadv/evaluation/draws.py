"""A randomized model judged by several draws: how often it is right on a sample."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadv.text import Cells, Printable, percent

FIGURES = ("one_draw", "majority", "worst")
NOTE = (
    "accuracy: of one draw, the mean over draws of all samples; each that is right in any draw was attacked; "
    "worst: right in the verdict and in every draw"
)


@dataclass(frozen=True)
class Draws(Printable):
    """Each of n samples classified `count` times by a model that may be randomized.

    A draw with logits that are not finite is wrong. Every sample that is right in a draw of x is attacked.
    Right always means classified as y, also where an attack has targets or a criterion of its own.
    """

    count: int
    right: Tensor = field(repr=False)  # int64 [n]; draws in which the sample is classified as y
    voted: Tensor = field(repr=False)  # bool [n]; y is the class of more draws than any other class
    # bool [n]; the single final check counts the sample as robust, or without an attack as correct
    verdict: Tensor = field(repr=False)
    early: Tensor = field(repr=False)  # int64 [n]; those of `right` in the first half of the draws

    @property
    def one_draw(self) -> float:
        """Expected accuracy of one draw: the mean share of draws that are right."""
        return (self.right.double() / self.count).mean().item()

    @property
    def majority(self) -> float:
        """Accuracy of the class that most draws name; a tie counts as wrong."""
        return self.voted.double().mean().item()

    @property
    def worst(self) -> float:
        """Share of samples that are right in the final check and in every draw, as RobustBench counts."""
        return (self.verdict & (self.right == self.count)).double().mean().item()

    @classmethod
    def together(cls, parts: Sequence["Draws"]) -> "Draws":
        """Return the worst of several, sample by sample."""
        # half of the draws say which is the worst, the other half how bad it is: luck is no attack
        parts = sorted(parts, key=lambda one: one.one_draw)
        voted, verdict, right, early = (
            torch.stack([getattr(one, name) for one in parts])
            for name in ("voted", "verdict", "right", "early")
        )
        # the strongest of equals
        order, halves = torch.arange(len(parts), device="cpu")[:, None], (early, right - early)
        worst = [(half * len(parts) + order).argmin(0, keepdim=True) for half in halves]
        first, last = early.gather(0, worst[1])[0], halves[1].gather(0, worst[0])[0]
        if (first + last).sum() > right[0].sum():
            first, last = early[0], halves[1][0]
        return cls(parts[0].count, first + last, voted.amin(0), verdict.amin(0), first)

    def contents(self) -> list[str | Cells]:
        (head, line), title = cells([("", self)]), f"each sample classified {self.count} times"
        return [title, [head[1:], line[1:]]]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON."""
        return {"count": self.count, **{name: getattr(self, name) for name in FIGURES}}


def cells(drawn: Sequence[tuple[str, Draws]]) -> list[list[str]]:
    """Return the draws of each attack as text, line by line, the head first."""
    head = ["attack", "one draw", "majority", f"worst of {drawn[0][1].count}"]
    return [head, *([name, *(percent(getattr(draws, key)) for key in FIGURES)] for name, draws in drawn)]
