"""l2_step: x_adv + step_size * grad / ||grad||_2, projected on {z : ||z - x||_2 <= radius, lo <= z <= hi}.

The norm is summed in float64. A row whose gradient is zero or not finite takes no step.
"""

import torch
from torch import Tensor

from fastadv.ops import _projection, _step
from fastadv.ops._rows import Box, PerRow, column
from fastadv.ops.registration.library import op


def reference(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float, hi: float,
    radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    norm = grad.double().flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))
    usable = (norm > 0) & norm.isfinite()
    move = torch.where(usable, column(step_size, step_size_rows, x) * grad.double() / norm, 0.0)
    return _projection.on_l2(x_adv.double() + move, x, radius, lo, hi, radius_rows)


_step.register_step("l2_step", "project(x_adv + s·g/‖g‖₂) on {‖z − x‖₂ ≤ r} ∩ box", reference, flops=14)

_new, _into = op("l2_step"), op("l2_step_")


def l2_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Take a step of steepest ascent under L2.

    The result is x_adv + step_size * grad / ||grad||_2, projected exactly on ball and box.

    Args:
        x_adv: floating [B, ...], in ball and box.
        others: as in `linf_step`.

    Returns:
        Points like x_adv, in ball and box.
    """
    return _new(*_step.arguments(x_adv, grad, x, radius, step_size, box))


def l2_step_(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Take the step of `l2_step`, and write the result into x_adv.

    Args:
        x_adv: floating [B, ...], in ball and box; overwritten. It must not be x itself.
        others: as in `linf_step`.

    Returns:
        x_adv.
    """
    _into(*_step.arguments(x_adv, grad, x, radius, step_size, box))
    return x_adv
