"""linf_step: x_adv + step_size * sign(grad), projected on {z : |z - x| <= radius, lo <= z <= hi}.

A clamp, whose edges are rounded towards x: no result is further than `radius` from x, in exact arithmetic.
A coordinate whose gradient is zero or not finite does not move.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.ops import _step
from fastadv.ops._rows import Box, PerRow, add_towards, clamp_box, column, towards_zero, wide
from fastadv.ops._samples import step_samples, within
from fastadv.ops.registration.library import Sample, op


def reference(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float, hi: float,
    radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    limit = towards_zero(column(radius, radius_rows, x), wide(x.dtype))
    lower = clamp_box(add_towards(x, -limit), lo, hi)
    upper = clamp_box(add_towards(x, limit), lo, hi)
    step = column(step_size, step_size_rows, x).to(wide(x.dtype))
    moved = x_adv.to(wide(x.dtype)) + step * torch.where(grad.isfinite(), grad, 0.0).sign().to(wide(x.dtype))
    return torch.minimum(torch.maximum(moved.to(x.dtype), lower), upper)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for x_adv, grad, *rest in step_samples(device, dtype):
        yield x_adv, grad, *rest
        if dtype is torch.float32:
            yield x_adv, grad.bfloat16(), *rest


_step.register_step(
    "linf_step", "clamp(x_adv + s·sign(g), x − r, x + r) ∩ box", reference, flops=8, samples=samples,
    compare=within(0), no_gradient="sign and clamp are flat almost everywhere",
)  # fmt: skip

_new, _into = op("linf_step"), op("linf_step_")


def linf_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Take a step of steepest ascent in L-infinity: x_adv + step_size * sign(grad), clamped to ball and box.

    Args:
        x_adv: floating [B, ...], in ball and box.
        grad: like x_adv; a gradient in bfloat16 suits points in float32, too.
        x: like x_adv, the centers, inside the box.
        radius: in input units, a number or [B]; may be inf.
        step_size: in input units, a number or [B].
        box: (lo, hi) of valid inputs.

    Returns:
        Points like x_adv, in ball and box.

    Raises:
        InputError: tensors do not match, or a radius or step is negative.

    Example:
        >>> import torch, fastadv as fa
        >>> x, grad = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[2.0, 0.0, -1.0]])
        >>> fa.ops.linf_step(x, grad, x, radius=0.25, step_size=0.125)
        tensor([[0.6250, 0.5000, 0.0000]])
    """
    return _new(*_step.arguments(x_adv, grad, x, radius, step_size, box, narrow=True))


def linf_step_(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box = (0.0, 1.0)
) -> Tensor:
    """Take the step of `linf_step`, and write the result into x_adv.

    Args:
        x_adv: floating [B, ...], in ball and box; overwritten. It must not be x itself.
        others: as in `linf_step`.

    Returns:
        x_adv.
    """
    _into(*_step.arguments(x_adv, grad, x, radius, step_size, box, narrow=True))
    return x_adv
