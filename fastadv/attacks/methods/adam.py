"""Adam (Kingma and Ba 2015), sample by sample."""

import math

import torch
from torch import Tensor

from fastadv.attacks.core import Rows

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999


class Moments(Rows):
    """The moving means of gradients and of their squares."""

    mean: Tensor
    square: Tensor


def adam(rows: Moments, gradient: Tensor, step: int, least: float = 0.0) -> Tensor:
    """Return the direction of Adam for gradients [n, ...] at step number `step`; step 0 begins anew.

    Elements have size 1 where the gradient has not changed, and are 0 where it has been zero. `least` is what
    papers call epsilon; with 0 the length of gradients cancels out.
    """
    if not step:
        rows.mean, rows.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
    rows.mean.lerp_(gradient, 1 - FIRST_DECAY)
    rows.square.mul_(SECOND_DECAY).addcmul_(gradient, gradient, value=1 - SECOND_DECAY)
    spread = rows.square.sqrt().div_(math.sqrt(1 - SECOND_DECAY ** (step + 1))).add_(least)
    direction = rows.mean / spread.clamp_min_(torch.finfo(gradient.dtype).tiny)
    return direction.div_(1 - FIRST_DECAY ** (step + 1))
