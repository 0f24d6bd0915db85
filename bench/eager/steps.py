"""The usual eager code of a step of PGD in each norm, beside the fused op that takes its place."""

from collections.abc import Callable

import torch
from torch import Tensor

import fastadv.ops as ops

RADIUS, STEP = 0.03, 0.01
# an L1 ball of the same radius would move a single coordinate
L1_RADIUS, L1_STEP, L1_QUANTILE = 12.0, 1.0, 0.99


def linf_eager(x_adv: Tensor, grad: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Take sign, multiply, add, maximum, minimum, clamp; the ball's edges are given."""
    return torch.minimum(torch.maximum(x_adv + STEP * grad.sign(), lower), upper).clamp(0, 1)


def row_norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(1e-12).reshape(-1, *[1] * (x.dim() - 1))


def l2_eager(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """Normalize, move, rescale into the ball, clamp into the box: no exact projection."""
    shift = x_adv + STEP * grad / row_norm(grad) - x
    return (x + shift * (RADIUS / row_norm(shift)).clamp_max(1.0)).clamp(0, 1)


def l1_eager(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """Take the step of SLIDE (Tramer & Boneh 2019), project by sorting (Duchi et al. 2008), and clamp.

    The coordinates in the top percent of |grad| that the box lets move share the step equally. The projection
    is the exact one on the ball, but not on the ball inside the box.
    """
    rows = grad.flatten(1)
    at = x_adv.flatten(1)
    stuck = ((at >= 1) & (rows > 0)) | ((at <= 0) & (rows < 0))
    size = rows.abs().masked_fill(stuck, 0.0)
    chosen = size >= size.quantile(L1_QUANTILE, dim=1, keepdim=True)
    move = rows.sign() * (chosen & (size > 0))
    shift = at + L1_STEP * move / move.abs().sum(1, keepdim=True).clamp_min(1.0) - x.flatten(1)
    length = shift.abs()
    ordered = length.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - L1_RADIUS) / torch.arange(1, ordered.shape[1] + 1, device=x.device)
    count = (ordered > excess).sum(1, keepdim=True).clamp_min(1)
    threshold = excess.gather(1, count - 1).clamp_min(0.0)
    kept = shift.sign() * (length - threshold).clamp_min(0.0)
    return (x + kept.reshape(x.shape)).clamp(0, 1)


Step = Callable[..., Tensor]
# the eager step, the fused one, and their radius and step size
STEPS: dict[str, tuple[Step, Step, float, float]] = {
    "linf_step": (linf_eager, ops.linf_step_, RADIUS, STEP),
    "l2_step": (l2_eager, ops.l2_step_, RADIUS, STEP),
    "l1_step": (l1_eager, ops.l1_step_, L1_RADIUS, L1_STEP),
}
