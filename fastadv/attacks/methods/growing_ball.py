"""The ball of FMN, which shrinks at successes and grows elsewhere (Pintor et al. 2021, algorithm 1)."""

import torch
from torch import Tensor

from fastadv.attacks.core import GradientLook, Rows, Search


class Ball(Rows):
    """The radius [n] of each sample's ball, and the largest that makes sense."""

    radius: Tensor
    most: Tensor


def next_radius(search: Search[Ball], look: GradientLook, share: float) -> Tensor:
    """Return [n], the radius of the next ball around samples that have been broken."""
    radius = search.rows.radius
    smaller, larger = radius * (1 - share), radius * (1 + share)
    if search.threat.norm == "l0":
        smaller, larger = smaller.floor().minimum(radius - 1), larger.floor().maximum(radius + 1)
    smaller = torch.minimum(smaller, search.best.distance).clamp_min(0)
    return torch.where(look.adversarial, smaller, larger).to(radius.dtype)
