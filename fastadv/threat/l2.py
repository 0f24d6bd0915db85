"""The L2 ball."""

from torch import Tensor

from fastadv import ops
from fastadv.ops._rows import PerRow
from fastadv.threat.base import Threat


class L2(Threat):
    """||z - x||_2 <= radius."""

    norm = "l2"
    symbol = "L2"
    order = 2.0

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.project_l2(x_adv, x, self.radius, self.box)

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        self.check_step_size(step_size)
        return ops.l2_step(x_adv, grad, x, self.radius, step_size, self.box)

    def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        self.check_step_size(step_size)
        return ops.l2_step_(x_adv, grad, x, self.radius, step_size, self.box)
