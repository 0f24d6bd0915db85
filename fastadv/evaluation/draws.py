"""A randomized model judged by several draws: how often it is right on a sample."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_count, check_seed
from fastadv.engine import Prepared
from fastadv.text import percent

TENSORS = {"right": torch.int64, "voted": torch.bool}
FIGURES = ("one_draw", "majority", "worst")
RANDOMIZED = (
    "randomized: the model gives two answers for one x, and one of them decided; draws=20 of evaluate "
    "reports the accuracy of one draw, of the majority and of the worst draw"
)
NOTE = (
    "worst: correct in the verdict and in every draw; "
    "samples that are wrong before an attack are not attacked and count as wrong in every draw"
)


@dataclass(frozen=True)
class Draws:
    """Each of n samples classified `count` times by a model that may be randomized.

    A draw with logits that are not finite is wrong. A sample that an attack found wrong already was not
    attacked: nothing shows that it is robust, and all its draws count as wrong. Right always means classified
    as y, also where an attack has targets or a criterion of its own.
    """

    count: int
    right: Tensor = field(repr=False)  # int64 [n]; draws in which the sample is classified as y
    voted: Tensor = field(repr=False)  # bool [n]; y is the class of more draws than any other class
    # bool [n]; the single final check counts the sample as robust, or without an attack as correct
    verdict: Tensor = field(repr=False)

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
        right, voted, verdict = (
            torch.stack([getattr(one, name) for one in parts]).amin(0) for name in (*TENSORS, "verdict")
        )
        return cls(parts[0].count, right, voted, verdict)

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

    def kept(self, device: torch.device, *counters: int) -> AbstractContextManager[None]:
        """Leave the caller's generators as they were; with counters, such as a batch's, seed them inside."""
        if self.count == 1:
            return nullcontext()
        return rng.generators_kept(device, rng.derive(self.seed, "draws", *counters) if counters else None)

    def draw(self, frozen: Prepared, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Classify x [B, ...] `count` times by the model as given; the tensors of TENSORS, each [B]."""
        # each draw is a pass by itself: a model may draw once for a whole batch
        votes = torch.zeros(len(y), 1, device=y.device)
        for _ in range(self.count):
            logits = frozen.verdict(x)
            finite = logits.isfinite().all(1, keepdim=True)
            votes = votes + torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0) * finite
        own = votes.gather(1, y[:, None]).squeeze(1)
        voted = own > votes.scatter(1, y[:, None], 0.0).amax(1)
        return {"right": own.to(torch.int64), "voted": voted}


ONE_DRAW = Drawing()


def cells(drawn: Sequence[tuple[str, Draws]]) -> list[list[str]]:
    """Return the draws of each attack as text, line by line, the head first."""
    lines = [["attack", *(name.replace("_", " ") for name in FIGURES)]]
    for attack, draws in drawn:
        lines.append([attack, *(percent(getattr(draws, name)) for name in FIGURES)])
    return lines
