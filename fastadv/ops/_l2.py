"""The exact Euclidean projection on an L2 ball inside a box, in eager PyTorch, for the ops of L2."""

import torch
from torch import Tensor

from fastadv.ops._rows import ROUNDING, add_towards, clamp_box, column


def project(
    point: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None
) -> Tensor:
    """Return argmin ||z - point||_2 over ||z - x||_2 <= radius, lo <= z <= hi, for a float64 `point`."""
    # x + clamp(t * v, lo - x, hi - x), v = point - x, with one t in (0, 1] a row: from radius / ||v|| on,
    # solve for t as if no further coordinate met the box; each round adds a clamped coordinate or ends
    v = (point - x.double()).flatten(1)
    low, high = (lo - x.double()).flatten(1), (hi - x.double()).flatten(1)
    square = column(radius, radius_rows, v).square()
    inside = v.clamp(low, high).square().sum(1, keepdim=True) <= square * ROUNDING
    t = torch.where(inside, 1.0, (square / v.square().sum(1, keepdim=True)).sqrt())
    while True:
        free = (t * v).clamp(low, high) == t * v
        clamped = torch.where(free, 0.0, v.clamp(low, high).square()).sum(1, keepdim=True)
        grown = (
            (square - clamped).clamp_min(0.0) / torch.where(free, v.square(), 0.0).sum(1, keepdim=True)
        ).sqrt()
        rises = ~inside & (grown > t * (1 + 1e-15)) & grown.isfinite()
        if not bool(rises.any()):
            break
        t = torch.where(rises, grown, t)
    shift = (t * v).clamp(low, high).reshape(x.shape)
    return clamp_box(add_towards(x, shift), lo, hi)
