"""The ball of FMN, which shrinks at successes and grows elsewhere (Pintor et al. 2021, algorithm 1)."""

from dataclasses import replace

import torch
from torch import Tensor

from fastadv.attacks.core import GradientLook, Rows, Search
from fastadv.ops._rows import NO_BOX


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


def onto_ball_then_box(search: Search[Ball], points: Tensor) -> Tensor:
    """Project points [n, ...] onto the ball and then onto the box, as the paper does; it may change them.

    They may end inside the ball.
    """
    ball = replace(search.threat, box=NO_BOX).resized(search.rows.radius)
    return ball.project(points, search.x).clamp_(*search.threat.box)
