"""The L0 ball: a number of coordinates that may change."""

import math

import torch
from torch import Tensor

from fastadv import ops
from fastadv.errors import InputError
from fastadv.ops._rows import PerRow, clamp_box, column, per_row
from fastadv.ops._step import check_points
from fastadv.threat.base import SLACK, Threat


class L0(Threat):
    """The L0 ball in a box: at most `radius` coordinates of z differ from x.

    Args:
        radius: a number of coordinates, or [B]; may be inf. The channels of a pixel are coordinates of their
            own. It has no default.
        others: as in `Threat`.

    Example:
        >>> import torch, fastadv as fa
        >>> x, z = torch.zeros(1, 4), torch.tensor([[0.5, 0.0, 1.0, 0.25]])
        >>> fa.L0(2).project(z, x)
        tensor([[0.5000, 0.0000, 1.0000, 0.0000]])
    """

    norm = "l0"
    symbol = "L0"
    order = 0.0
    least_step = 1.0
    slack = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "radius", _whole(self.radius))

    def default_step_size(self, steps: int, factor: float = 1.0) -> PerRow:
        size = super().default_step_size(steps, factor)
        return size.ceil() if isinstance(size, Tensor) else float(math.ceil(size))

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.project_l0(x_adv, x, self.radius, self.box)

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        """Move up to `step_size` coordinates to the edge of the box, towards the best point to first order.

        That point maximizes <grad, z - x> over ball and box: the `radius` coordinates that add the most are
        at their edges. Of these, the ones that gain the most move. If more than `radius` coordinates would
        then differ from x, those that add the least go back to x; a projection would instead keep the largest
        displacements, whatever they gain.
        """
        self.check_step_size(step_size)
        check_points(x_adv, grad, x)
        lo, hi = self.box
        if hi - lo == float("inf"):
            raise InputError(f"box: expected a finite one for an L0 step, got {self.box}")
        rows, origin, gradient = clamp_box(x_adv, lo, hi).flatten(1), x.flatten(1), grad.double().flatten(1)
        gradient = torch.where(gradient.isfinite().all(1, keepdim=True), gradient, 0.0)
        most = column(*per_row("radius", self.radius, rows), rows).floor()
        count = column(*per_row("step_size", step_size, rows), rows).floor()
        edge = torch.where(gradient > 0, torch.full_like(rows, hi), torch.full_like(rows, lo))
        # the gain of a coordinate in <grad, z - x> as it stands, and at its edge
        stays, moves = (gradient * (point.double() - origin.double()) for point in (rows, edge))
        held = rows != origin
        # the first that comes into a full ball drives out the coordinate that adds the least
        full = held.sum(1, keepdim=True) >= most
        price = torch.where(full, torch.where(held, stays, math.inf).amin(1, keepdim=True), 0.0)
        # the edge may be x itself: a displacement against the gradient is undone
        wanted = (edge != rows) & torch.where(moves > 0, _rank(moves) < most, stays < 0)
        gain = torch.where(wanted, moves - torch.where(held, stays, price), -math.inf)
        moved = wanted & (_rank(gain) < count)
        worth = torch.where(moved, moves, torch.where(held, stays, -math.inf))
        kept = (moved | held) & (_rank(worth) < most)
        return torch.where(kept, torch.where(moved, edge, rows), origin).reshape(x.shape)

    def _gain(self, size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        gains = (size * room).sort(dim=1, descending=True).values
        places = torch.arange(gains.shape[1], device=gains.device)
        return torch.where(places < radius.floor(), gains, 0.0).sum(1)


def _whole(radius: PerRow) -> PerRow:
    """Return the radius; the whole number next to it where rounding alone keeps them apart, as 0.29 * 100."""
    if isinstance(radius, Tensor):
        near = radius.round()
        return torch.where((radius - near).abs() <= SLACK * near, near, radius)
    whole = radius if math.isinf(radius) else float(round(radius))
    return whole if abs(radius - whole) <= SLACK * whole else radius


def _rank(values: Tensor) -> Tensor:
    """Rank the elements of each row, the largest first, the lower index first among equals."""
    order = values.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
