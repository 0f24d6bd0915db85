"""l2_step: x_adv + step_size * grad / ||grad||_2, projected on {z : ||z - x||_2 <= radius, lo <= z <= hi}.

The projection is the exact one on the intersection (see _l2.py). The norm is summed in float64, so a gradient
scaled by 1e-12 or 1e12 gives the same step. A row whose gradient is zero or not finite takes no step.
"""

import torch
from torch import Tensor

from fastadv.ops import _l2, _step
from fastadv.ops._rows import Box, PerRow, column
from fastadv.ops.registration.library import op


def reference(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float, hi: float,
    radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    norm = grad.double().flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))
    usable = (norm > 0) & norm.isfinite()
    move = torch.where(usable, column(step_size, step_size_rows, x) * grad.double() / norm, 0.0)
    return _l2.project(x_adv.double() + move, x, radius, lo, hi, radius_rows)


_step.register_step("l2_step", "project(x_adv + s·g/‖g‖₂) on {‖z − x‖₂ ≤ r} ∩ box", reference, flops=14)

_new, _into = op("l2_step"), op("l2_step_")


def l2_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Steepest ascent under L2: x_adv + step_size * grad / ||grad||_2, projected exactly on ball and box.

    Tensors [B, ...] of one shape, dtype and device; x inside the box. `radius` (may be inf) and `step_size`
    in input units, a number or [B]. Raises InputError on mismatched tensors or a negative radius or step.
    """
    return _new(*_step.arguments(x_adv, grad, x, radius, step_size, box))


def l2_step_(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Return `l2_step` that overwrites and returns x_adv, which must not be x itself."""
    _into(*_step.arguments(x_adv, grad, x, radius, step_size, box))
    return x_adv
