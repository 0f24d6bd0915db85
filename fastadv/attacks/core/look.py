"""What the model says of points.

Where the logits at a point are not finite, a look with gradients repeats the sample's last answer that was:
its logits, loss and gradient. A sample without one has the gradient 0, and its `x_adv` goes halfway back to
x. Such a point is never adversarial.
"""

from copy import copy
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from fastadv._waiting import surely_finite
from fastadv.attacks.core.points import taken
from fastadv.ops._rows import like


@dataclass(eq=False)
class Look:
    """What the model says of points, one row for each sample still in the search.

    Attributes:
        x_adv: [n, ...], the points, or [n, C, ...] for C candidates a sample.
        logits: [n, K] or [n, C, K].
        adversarial: bool [n] or [n, C]; whether the logits are finite and meet the criterion.
        count: [n] or [n, C], how many of several decisions are as wanted; None where there is one.
        distance: [n] or [n, C], from x; set in a minimum-norm attack, where points compete.
    """

    answers: ClassVar[tuple[str, ...]] = ()  # what a look without finite logits repeats, the gradient last
    x_adv: Tensor
    logits: Tensor
    adversarial: Tensor = field(init=False)
    count: Tensor | None = field(init=False, default=None)
    distance: Tensor = field(init=False)

    def take(self, kept: Tensor) -> Self:
        """Return a look of the same class with the rows `kept` alone, bool [n] or int [m]."""
        part = copy(self)
        vars(part).update({name: taken(value, kept) for name, value in vars(self).items()})
        return part


@dataclass(eq=False)
class ScoredLook(Look):
    """A look with a loss.

    Attributes:
        loss: [n] or [n, C].
        others: as in `Look`.
    """

    loss: Tensor


@dataclass(eq=False)
class GradientLook(ScoredLook):
    """A look with a loss and its gradient.

    Attributes:
        gradient: of the loss, like x_adv; elements that are not finite are zero.
        others: as in `ScoredLook`.
    """

    answers = "logits", "loss", "gradient"
    gradient: Tensor


@dataclass(eq=False)
class JacobianLook(Look):
    """A look with the gradients of several functions of the logits.

    Attributes:
        gradients: [n, C, ...] of C functions; elements that are not finite are zero.
        others: as in `Look`.
    """

    answers = "logits", "gradients"
    gradients: Tensor


def finite_rows(logits: Tensor) -> Tensor | None:
    """Return bool [n] or [n, C], whether all logits [.., K] are finite; None where they surely are."""
    # a GPU launches torch's kernel faster than one of ours
    return None if surely_finite(logits) else torch.linalg.vector_norm(logits, torch.inf, dim=-1) < torch.inf


def go_on(
    points: Tensor, x: Tensor, finite: Tensor, answers: list[Tensor], last: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return where rows that are not `finite` bool [n] go on from, and their `last` answers, if any."""
    if [answer.shape for answer in last] != [answer.shape for answer in answers]:
        last = [*answers[:-1], torch.zeros_like(answers[-1])]
    usable = (last[-1] != 0) & last[-1].isfinite()
    lost = ~finite & ~usable.flatten(1).any(1)
    back = torch.where(like(lost, points), torch.lerp(x, points, 0.5), points)
    pairs = zip(answers, last, strict=True)
    return back, [torch.where(like(finite, now), now, before.to(now.dtype)) for now, before in pairs]
