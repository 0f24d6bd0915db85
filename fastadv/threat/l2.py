"""The L2 ball."""

import torch
from torch import Tensor

from fastadv import ops
from fastadv.threat.base import Threat


class L2(Threat):
    """The L2 ball in a box: z is at most the radius away from x in the Euclidean norm.

    Args:
        radius: ||z - x||_2, in input units, a number or [B]; may be inf. It has no default.
        others: as in `Threat`.

    Example:
        >>> import torch, fastadv as fa
        >>> x, z = torch.zeros(1, 4), torch.full((1, 4), 0.5)
        >>> fa.L2(1).contains(z, x), fa.L2(1).distance(z, x)
        (tensor([True]), tensor([1.], dtype=torch.float64))
    """

    norm = "l2"
    symbol = "L2"
    order = 2.0
    _ops = ops.l2_step, ops.l2_step_

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.project_l2(x_adv, x, self.radius, self.box)

    def _gain(self, size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        # away = min(t * size, room) with t such that its length is the radius; in this order coordinates fill
        order = torch.where(size > 0, room / size, 0.0).argsort(dim=1)
        size, room = size.gather(1, order), room.gather(1, order)
        ahead = size.square().flip(1).cumsum(1).flip(1)  # of this coordinate and those that fill later
        before = room.square().cumsum(1) - room.square()
        # the length that the others have reached when this one is full
        reached = before + torch.where(size > 0, (room / size).square() * ahead, 0.0)
        full = reached <= radius.square()
        rest = (radius.square() - torch.where(full, room, 0.0).square().sum(1, keepdim=True)).clamp_min(0)
        left = torch.where(full, 0.0, size).square().sum(1, keepdim=True)
        more = (rest * left).sqrt().where(left > 0, 0.0)
        return (torch.where(full, size * room, 0.0).sum(1, keepdim=True) + more).squeeze(1)
