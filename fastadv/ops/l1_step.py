"""l1_step: move one coordinate by step_size, then project on {z : ||z - x||_1 <= radius, lo <= z <= hi}.

Steepest ascent under L1 puts the whole step on the coordinate of the largest |grad|; here on the largest among those the box lets move, because a
pixel that already touches the box would swallow the step. Ties go to the lower index. The projection is the exact Euclidean one on the
intersection (see _l1.py).
A row whose gradient is zero or not finite takes no step.
"""

import torch
from torch import Tensor

from fastadv._library import OpCard, Sample, register
from fastadv.ops import _l1, _step
from fastadv.ops._rows import PerRow, column
from fastadv.ops._samples import assert_ulps, step_samples


def reference(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float, hi: float,
    radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    gradient = grad.double().flatten(1)
    usable = gradient.isfinite().all(1, keepdim=True)
    at = x_adv.flatten(1)
    movable = usable & torch.where(
        gradient > 0, at < torch.tensor(hi, dtype=x.dtype), at > torch.tensor(lo, dtype=x.dtype)
    )
    size = torch.where(movable, gradient.abs(), 0.0)
    best = size.argmax(1, keepdim=True) if size.shape[1] else torch.empty(len(x), 0, dtype=torch.int64)
    step = column(step_size, step_size_rows, gradient)
    gain = torch.where(size.gather(1, best) > 0, step * gradient.gather(1, best).sign(), 0.0)
    moved = x_adv.double().flatten(1).scatter_add(1, best, gain)
    return _l1.project(moved.reshape(x.shape), x, radius, lo, hi, radius_rows)


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    assert_ulps(actual, expected, 4, floor=3e-7)


register(
    OpCard(
        name="l1_step",
        schema=_step.SCHEMA,
        summary="project(x_adv + s·sign(gᵢ)·eᵢ), i = argmax |g| over coordinates free to move, on {‖z − x‖₁ ≤ r} ∩ box",
        reference=reference,
        fake=_step.fake,
        samples=step_samples,
        compare=compare,
        ordered=True,
        in_place=True,
        no_gradient="an attack's step is not differentiated",
        bytes_moved=lambda x_adv, *rest: 4 * x_adv.numel() * x_adv.element_size(),
        flops=lambda x_adv, *rest: 30 * x_adv.numel(),
    )
)

_new, _into = torch.ops.fastadv.l1_step.default, torch.ops.fastadv.l1_step_.default


def l1_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    radius: PerRow,
    step_size: PerRow,
    box: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Steepest ascent under L1: one coordinate moves by step_size, then the point is projected exactly on the ball around x inside the box.

    Tensors [B, ...] of one shape, dtype and device; x inside the box. `radius` (may be inf) and `step_size` in input units, a number or [B].
    Raises InputError on mismatched tensors or a negative radius or step.
    """
    result: Tensor = _new(*_step.arguments(x_adv, grad, x, radius, step_size, box))
    return result


def l1_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    radius: PerRow,
    step_size: PerRow,
    box: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """`l1_step` that overwrites and returns x_adv, which must not be x itself."""
    _into(*_step.arguments(x_adv, grad, x, radius, step_size, box))
    return x_adv
