"""The L-infinity ball."""

from torch import Tensor

from fastadv import ops
from fastadv.ops._rows import PerRow
from fastadv.threat.base import Threat


class Linf(Threat):
    """max |z_i - x_i| <= radius."""

    norm = "linf"
    symbol = "L∞"
    order = float("inf")

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.linf_step(x_adv, x_adv, x, self.radius, 0.0, self.box)

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        self.check_step_size(step_size)
        return ops.linf_step(x_adv, grad, x, self.radius, step_size, self.box)

    def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        self.check_step_size(step_size)
        return ops.linf_step_(x_adv, grad, x, self.radius, step_size, self.box)

    def _gain(self, size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        return (size * room.minimum(radius)).sum(1)
