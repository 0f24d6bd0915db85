"""A randomized model judged by several draws: how often it is right on a sample."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_count, check_seed
from fastadv.engine import Prepared
from fastadv.text import aligned, percent

FIGURES = ("one_draw", "majority", "worst")
SHARED = 4  # samples of a pass: a model may draw once for all of them, such as a shift or a size
RANDOMIZED = (
    "randomized: the model gives two answers for one x, and one of them decided; draws=20 of evaluate "
    "reports the accuracy of one draw, of the majority and of the worst draw"
)
NOTE = (
    "accuracy: of one draw, the mean over draws of all samples; each that is right in any draw was attacked; "
    "worst: right in the verdict and in every draw"
)


@dataclass(frozen=True)
class Draws:
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

    def __str__(self) -> str:
        (head, line), title = cells([("", self)]), f"each sample classified {self.count} times"
        return f"{title}\n{aligned([head[1:], line[1:]])}"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON."""
        return {"count": self.count, **{name: getattr(self, name) for name in FIGURES}}


@dataclass(frozen=True)
class Drawing:
    """How often each sample is drawn, and the seed that several draws follow from."""

    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("draws", self.count, 1)
        check_seed(self.seed)

    def kept(self, device: torch.device | None, *counters: int) -> AbstractContextManager[None]:
        """Leave the caller's generators as they were; with counters, such as a batch's, seed them inside."""
        if self.count == 1:
            return nullcontext()
        seed = rng.derive(self.seed, "draws", *counters) if counters else None
        return rng.generators_kept(device or rng.CPU, seed)

    @contextmanager
    def patient(self, frozen: Prepared) -> Iterator[None]:
        """Let no luck of one of several draws end a search of the model inside, or keep it from a sample."""
        before, frozen.patient = frozen.patient, self.count > 1
        try:
            yield
        finally:
            frozen.patient = before

    def draw(self, frozen: Prepared, x: Tensor, y: Tensor, number: int) -> dict[str, Tensor]:
        """Classify batch `number`, x [B, ...], `count` times as given; right, voted and early [B]."""
        # passes of a few samples, since a model may draw once for a whole batch; and the same random numbers
        # for x and for each x_adv, so that these draws of an attack that changes nothing are those of x
        votes = torch.zeros(len(y), 1, device=y.device)
        early = right = votes[:, 0]
        with self.kept(x.device, number, 0, 0):
            for draw in range(self.count):
                logits = torch.cat([frozen.verdict(part) for part in torch.split(x, SHARED)])
                finite = logits.isfinite().all(1, keepdim=True)
                votes = votes + nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * finite
                right = votes.gather(1, y[:, None]).squeeze(1)
                early = right if draw < self.count // 2 else early
        voted = right > votes.scatter(1, y[:, None], 0.0).amax(1)
        return {"right": right.to(torch.int64), "voted": voted, "early": early.to(torch.int64)}


ONE_DRAW = Drawing()


def cells(drawn: Sequence[tuple[str, Draws]]) -> list[list[str]]:
    """Return the draws of each attack as text, line by line, the head first."""
    head = ["attack", "one draw", "majority", f"worst of {drawn[0][1].count}"]
    return [head, *([name, *(percent(getattr(draws, key)) for key in FIGURES)] for name, draws in drawn)]
