"""Adam (Kingma and Ba 2015), sample by sample."""

import torch
from torch import Tensor

from fastadv.attacks.core import Rows
from fastadv.attacks.methods.geometry import like

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999


class Moments(Rows):
    """The moving means of gradients and of their squares."""

    mean: Tensor
    square: Tensor


def adam(rows: Moments, gradient: Tensor, step: int | Tensor, least: float = 0.0) -> Tensor:
    """Return the direction of Adam for gradients [n, ...]; step 0 begins anew, with [n] the caller does."""
    if isinstance(step, int) and not step:
        rows.mean, rows.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
    first, second = (_grown(decay, step, gradient) for decay in (FIRST_DECAY, SECOND_DECAY))
    rows.mean.lerp_(gradient, 1 - FIRST_DECAY)
    rows.square.mul_(SECOND_DECAY).addcmul_(gradient, gradient, value=1 - SECOND_DECAY)
    spread = rows.square.sqrt().div_(second**0.5).add_(least)
    direction = rows.mean / spread.clamp_min_(torch.finfo(gradient.dtype).tiny)
    return direction.div_(first)


def _grown(decay: float, step: int | Tensor, gradient: Tensor) -> float | Tensor:
    """Return the share that a moving mean has of a gradient which has not changed."""
    share = 1 - decay ** (step + 1)
    return like(share, gradient) if isinstance(share, Tensor) else share
