"""Outputs that were squashed into an interval, which bends every loss of their differences.

A sigmoid or tanh of each logit leaves the decision as it was. But where it saturates, an output falls out of
the gradient, and a search follows the outputs in the middle of the interval, whatever their classes. What no
squashing changes is the direction of each output's own gradient. So the two gradients of the margin count
alike: that of the output which is to rise, and that of the one which is to fall.
"""

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.points import like
from fastadv.engine import Prepared

LOSSES = ("ce_sharp", "margin")  # the defaults; those that papers chose stay as they are
FEWEST, NEAR = 5, 0.03  # classes, and the share of a row's range in which the lower half of its outputs lie


def bounded(logits: Tensor) -> Tensor | None:
    """Return bool [B]: at least half of a row's outputs crowd at their lower end; None where no row does."""
    classes = logits.shape[1]
    if classes < FEWEST:
        return None
    rows = logits.sort(1).values
    low, middle, high = rows[:, 0], rows[:, (classes - 1) // 2], rows[:, -1]
    found = middle - low <= NEAR * (high - low)
    return found if bool(found.any()) else None


def unbent(
    classifier: Prepared, points: Tensor, y: Tensor, loss: losses.Loss, aims: Tensor | None, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, logits and gradient at points [n, ...], which for `rows` bool [n] no squashing bends."""

    def ends(logits: Tensor) -> Tensor:
        """Return [n, 2, K], what is to rise and what is to fall."""
        usual = losses.loss_and_grad(logits, y, loss, aims, True)[1]
        margin = losses.loss_and_grad(logits, y, "margin", aims)[1]
        both = torch.stack([margin.clamp_min(0), margin.clamp_max(0)], 1)
        return torch.where(rows[:, None, None], both, torch.stack([usual, torch.zeros_like(usual)], 1))

    logits, gradients = classifier.jacobian(points, ends)
    largest = gradients.flatten(2).abs().amax(2).clamp_min(torch.finfo(gradients.dtype).tiny)
    units = gradients / like(largest, gradients)  # whose squares are in the range of the dtype
    units = units / like(units.flatten(2).norm(dim=2).clamp_min(0.5), units)
    gradient = torch.where(like(rows, points), units.sum(1), gradients[:, 0])
    return losses.loss_value(logits, y, loss, aims), logits, gradient
