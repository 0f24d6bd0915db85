"""A kink at the edge of the data: the derivative is 0 on a bound of the box, but not a little inside.

A ReLU or a clamp in front of a net has the derivative 0 at exactly 0, where most pixels of an image may lie.
A step inside would find another one, so the gradient of such coordinates is taken a little inside.
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
AskRows = Callable[[Tensor, Tensor], Tensor]
# points [n, ...] -> what is known there of all rows
AskAll = Callable[[Tensor], tuple[Tensor, ...]]


class Edge:
    """Where a search takes gradients: at its points and, of flat coordinates near a bound, inside."""

    def __init__(self, box: Box) -> None:
        self.depth: Tensor | None = None
        self.met = False  # whether the search has had a gradient
        self._box = box

    def around(self, points: Tensor, pull: AskAll, ask: AskRows) -> tuple[Tensor, ...]:
        """Return what `pull` says of points [n, ...]; where its gradient, the last, is flat, one inside."""
        # `ask` gives gradients of single rows, to find a kink
        *said, gradient = pull(points)
        self._meets(points, said[-1], gradient, ask)
        if self.depth is None:
            return *said, gradient
        within = inside(points, self.depth, self._box)
        several = gradient.ndim > points.ndim  # functions
        flat = ((gradient == 0).all(1) if several else gradient == 0) & (within != points)
        more = pull(torch.where(flat, within, points))[-1]  # all else stays where it is
        return *said, torch.where(flat[:, None] if several else flat, more, gradient)

    def _meets(self, points: Tensor, logits: Tensor, gradient: Tensor, ask: AskRows) -> None:
        """Set the depth if the first gradient of a search lacks what it has inside."""
        first, self.met = not self.met, True
        if first and gradient.ndim > points.ndim:  # of several functions
            gradient = gradient.abs().amax(1)
        if first and may_be(points, gradient, self._box):
            # a gradient without an answer is 0 for another reason
            gradient = gradient.where(like(logits.isfinite().all(1), gradient), torch.nan)
            depth, _ = kinks(points, gradient, self._box, ask)
            self.depth = depth if bool(depth.any()) else None


def inside(points: Tensor, depth: float | Tensor, box: Box) -> Tensor:
    """Return points [n, ...] that are at least so far inside the box, a number or [n] of its widths.

    Rows of depth 0 stay as they are, inside or not.
    """
    width = box[1] - box[0]
    width = width if math.isfinite(width) else 1.0
    depths = like(depth, points) if isinstance(depth, Tensor) else torch.full((), depth, device=points.device)
    low, high = (box[0] + width * depths).to(points), (box[1] - width * depths).to(points)
    return torch.where(depths > 0, torch.clamp(points, low, high), points)


def may_be(points: Tensor, gradient: Tensor, box: Box) -> bool:
    """Return whether a gradient [n, ...] is exactly 0 in a share of a row's coordinates on a bound."""
    zero = gradient == 0
    if not waits(zero.device) and not bool(zero.any()):
        return False  # the usual case, for less
    bound = ((points == box[0]) | (points == box[1])).flatten(1)
    return bool(((zero.flatten(1) & bound).sum(1) > SHARE * bound.sum(1).clamp_min(1)).any())


def kinks(points: Tensor, gradient: Tensor, box: Box, ask: AskRows) -> tuple[Tensor, Tensor]:
    """Return the depths [n] at which rows show derivatives that they lack on a bound, and their share."""
    # both are 0 where none is missing; rows pass the model where more than `SHARE` are exactly 0
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
        shows = share > SHARE
        depths[left[shows]], shares[left[shows]] = depth, share[shows]
        left = left[~shows]
    return depths, shares
