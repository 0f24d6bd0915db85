"""What the model says of points."""

from copy import copy
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor


@dataclass(eq=False)
class Look:
    """What the model says of points: x_adv [n, ...] or, with C candidates a sample, [n, C, ...].

    Rows are those of the samples still in the search.

    seen: what passed the model: x_adv, or what it is in the caller's half precision, in the dtype of x_adv.
    logits: [n, K] or [n, C, K].
    adversarial: bool [n] or [n, C]; the logits are finite and meet the criterion.
    distance: [n] or [n, C] of x_adv from x; set in an attack for the minimum, where points compete.
    """

    x_adv: Tensor
    seen: Tensor
    logits: Tensor
    adversarial: Tensor
    distance: Tensor = field(init=False)

    def take(self, kept: Tensor) -> Self:
        """Return the rows `kept` alone."""
        taken = copy(self)
        for name, value in vars(self).items():
            setattr(taken, name, value[kept])
        return taken


@dataclass(eq=False)
class ScoredLook(Look):
    """With a loss: [n] or [n, C]."""

    loss: Tensor


@dataclass(eq=False)
class GradientLook(ScoredLook):
    """With the gradient of the loss: like x_adv, with zeros for elements that are not finite."""

    gradient: Tensor


@dataclass(eq=False)
class JacobianLook(Look):
    """With the gradients [n, C, ...] of C functions of the logits, as finite as those of `GradientLook`."""

    gradients: Tensor
