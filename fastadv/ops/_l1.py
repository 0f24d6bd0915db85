"""The exact Euclidean projection on an L1 ball inside a box, in eager PyTorch, for project_l1 and l1_step."""

import torch
from torch import Tensor

from fastadv.ops._rows import ROUNDING, add_towards, clamp_box, column


def project(
    point: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None
) -> Tensor:
    """Return argmin ||z - point||_2 over ||z - x||_1 <= radius, lo <= z <= hi, for a float64 `point`."""
    # with w = |point - x| and c the room, |z - x| = clamp(w - t, 0, c); after 64 halvings of [0, max w] the
    # threshold t is right to the last bit, on the feasible side
    v = (point - x.double()).flatten(1)
    low, high = (lo - x.double()).flatten(1), (hi - x.double()).flatten(1)
    w, room = v.abs(), torch.where(v > 0, high, -low)
    limit = column(radius, radius_rows, v)

    def kept(t: Tensor) -> Tensor:
        return torch.minimum((w - t).clamp_min(0.0), room)

    below = torch.zeros_like(w[:, :1])
    outside = kept(below).sum(1, keepdim=True) > limit * ROUNDING
    above = w.amax(1, keepdim=True) if w.shape[1] else below
    for _ in range(64):
        middle = (below + above) / 2
        feasible = kept(middle).sum(1, keepdim=True) <= limit
        below, above = torch.where(feasible, below, middle), torch.where(feasible, middle, above)
    shift = kept(torch.where(outside, above, 0.0)) * v.sign()
    return clamp_box(add_towards(x, shift.reshape(x.shape)), lo, hi)
