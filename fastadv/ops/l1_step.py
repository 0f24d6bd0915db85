"""l1_step: steepest ascent by step_size, then projection on {z : ||z - x||_1 <= radius, lo <= z <= hi}.

The ascent is the d that maximizes <d, grad> over ||d||_1 <= step_size with x_adv + d inside the box:
coordinates move in the order of |grad|, ties by the lower index, each to the edge of the box, until the
length is spent. A row whose gradient is zero or not finite takes no step.
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
    gradient = grad.double().flatten(1)
    usable = gradient.isfinite().all(1, keepdim=True)
    at = x_adv.flatten(1)
    edge = torch.where(gradient > 0, torch.full_like(at, hi), torch.full_like(at, lo))
    room = (edge.double() - at.double()) * gradient.sign()
    room = torch.where(usable & (room > 0), room, 0.0)
    order = gradient.abs().argsort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    spent = torch.cat([torch.zeros_like(room[:, :1]), room.cumsum(1)], 1)[:, :-1]
    taken = torch.minimum((column(step_size, step_size_rows, gradient) - spent).clamp_min(0.0), room)
    ascent = torch.zeros_like(gradient).scatter(1, order, taken) * gradient.sign()
    moved = at.double() + torch.where(usable, ascent, 0.0)
    return _projection.on_l1(moved.reshape(x.shape), x, radius, lo, hi, radius_rows)


_step.register_step(
    "l1_step",
    "project(x_adv + argmax ⟨d, g⟩ over ‖d‖₁ ≤ s in the box) on {‖z − x‖₁ ≤ r} ∩ box",
    reference,
    flops=120,  # on a GPU: 31 halvings of the level, then the projection
    ordered=True,
)

_new, _into = op("l1_step"), op("l1_step_")


def l1_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Take a step of steepest ascent under L1.

    The steepest coordinates move, each up to the box, by step_size in all. The point is then projected
    exactly on the ball around x inside the box.

    Args:
        x_adv: floating [B, ...], in ball and box.
        others: as in `linf_step`.

    Returns:
        Points like x_adv, in ball and box.
    """
    return _new(*_step.arguments(x_adv, grad, x, radius, step_size, box))


def l1_step_(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Take the step of `l1_step`, and write the result into x_adv.

    Args:
        x_adv: floating [B, ...], in ball and box; overwritten. It must not be x itself.
        others: as in `linf_step`.

    Returns:
        x_adv.
    """
    _into(*_step.arguments(x_adv, grad, x, radius, step_size, box))
    return x_adv
