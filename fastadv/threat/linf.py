"""The L-infinity ball."""

from torch import Tensor

from fastadv import ops
from fastadv.threat.base import Threat


class Linf(Threat):
    """The Linf ball in a box: no coordinate of z differs from x by more than the radius.

    Args:
        radius: `max |z_i - x_i|`, in input units: 8 / 255 is eight levels of an 8-bit image in [0, 1]. A
            number or [B]; may be inf. It has no default.
        others: as in `Threat`.

    Example:
        >>> import torch, fastadv as fa
        >>> x = torch.zeros(2, 3)
        >>> fa.Linf(0.25).project(torch.tensor([[1.0, 0.125, -1.0], [0.0, 0.0, 0.5]]), x)
        tensor([[0.2500, 0.1250, 0.0000],
                [0.0000, 0.0000, 0.2500]])
    """

    norm = "linf"
    symbol = "L∞"
    order = float("inf")
    _ops = ops.linf_step, ops.linf_step_

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.linf_step(x_adv, x_adv, x, self.radius, 0.0, self.box)

    def _gain(self, size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        return (size * room.minimum(radius)).sum(1)
