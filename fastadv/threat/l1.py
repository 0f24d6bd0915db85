"""The L1 ball."""

import torch
from torch import Tensor

from fastadv import ops
from fastadv.threat.base import Threat


class L1(Threat):
    """The L1 ball in a box: the coordinates of z and x differ by at most the radius in sum.

    Args:
        radius: `sum |z_i - x_i|`, in input units, a number or [B]; may be inf. It has no default.
        others: as in `Threat`.

    Example:
        >>> import torch, fastadv as fa
        >>> x, z = torch.zeros(1, 4), torch.full((1, 4), 0.5)
        >>> fa.L1(1).contains(z, x), fa.L1(1).project(z, x).sum().item()
        (tensor([False]), 1.0)
    """

    norm = "l1"
    symbol = "L1"
    order = 1.0
    _ops = ops.l1_step, ops.l1_step_

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.project_l1(x_adv, x, self.radius, self.box)

    def _gain(self, size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        # the coordinates with the largest weights are filled first
        size, order = size.sort(dim=1, descending=True)
        filled = room.gather(1, order).cumsum(1).minimum(radius)
        away = filled.diff(dim=1, prepend=torch.zeros_like(radius)).nan_to_num(0.0, torch.inf)
        return (size * away).where(size > 0, 0.0).sum(1)
