"""A kink at the edge of the data: the derivative is 0 on a bound of the box, but not a little inside.

A ReLU or a clamp in front of a net has the derivative 0 at exactly 0, where most pixels of an image may lie.
A step inside would find another one, so the gradient is taken a little inside.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastadv._waiting import waits
from fastadv.ops._rows import like

DEPTHS = (1e-4, 1e-2, 1e-1)  # of the width of the box; the first counts that shows a derivative
SHARE = 0.05  # of the coordinates of a row that lie on a bound: so many at least are flat there alone

Box = tuple[float, float]
# (points [m, ...], rows int64 [m]) -> the gradient of these rows there, like the points
Ask = Callable[[Tensor, Tensor], Tensor]


def inside(points: Tensor, depth: float | Tensor, box: Box) -> Tensor:
    """Return points [n, ...] that are at least so far inside the box, a number or [n] of its widths."""
    width = box[1] - box[0]
    width = width if math.isfinite(width) else 1.0
    each = like(depth, points) if isinstance(depth, Tensor) else torch.full((), depth, device=points.device)
    low, high = (box[0] + width * each).to(points), (box[1] - width * each).to(points)
    return torch.clamp(points, low, high)


def may_be(points: Tensor, gradient: Tensor, box: Box) -> bool:
    """Return whether a gradient [n, ...] is exactly 0 in a share of a row's coordinates on a bound."""
    zero = gradient == 0
    if not waits(zero.device) and not bool(zero.any()):
        return False  # the usual case, for less
    bound = ((points == box[0]) | (points == box[1])).flatten(1)
    return bool(((zero.flatten(1) & bound).sum(1) > SHARE * bound.sum(1).clamp_min(1)).any())


def kinks(points: Tensor, gradient: Tensor, box: Box, ask: Ask) -> tuple[Tensor, Tensor]:
    """Return the depths [n] at which rows show derivatives that they lack on a bound, and how many.

    How many is a share [n] of a row's coordinates on a bound. Both are 0 where none is missing. Nothing
    passes the model unless the gradient is exactly 0 in more than `SHARE` of these coordinates.
    """
    bound = (points == box[0]) | (points == box[1])
    flat = bound & (gradient == 0)
    count = bound.flatten(1).sum(1).clamp_min(1)
    depths, shares = torch.zeros(2, len(points), device=points.device).unbind()
    left = (flat.flatten(1).sum(1) > SHARE * count).nonzero().squeeze(1)
    if len(left):  # a gradient may vanish for another reason than that of `ask`
        flat[left] &= ask(points[left], left) == 0
    for depth in DEPTHS:
        if not len(left):
            break
        asked = torch.where(flat[left], inside(points[left], depth, box), points[left])
        share = (flat[left] & (ask(asked, left) != 0)).flatten(1).sum(1) / count[left]
        found = share > SHARE
        depths[left[found]], shares[left[found]] = depth, share[found]
        left = left[~found]
    return depths, shares
