"""linf_step on a GPU: one pass over the batch, elementwise (see ops/linf_step.py)."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _common
from fastadv.ops.triton._common import add_towards, clamp, edge, load, per_row, rounded, store, towards_zero
from fastadv.ops.triton._tuned import Width, width


@triton.jit
def step(point, gradient, center, limit, length, low, high, dtype: tl.constexpr):
    """Return the points a step further; limit is the radius rounded towards zero, in float64."""
    lower = clamp(add_towards(center, -limit, dtype), low, high)
    upper = clamp(add_towards(center, limit, dtype), low, high)
    move = tl.where(gradient > 0, length, tl.where(gradient < 0, -length, 0.0))
    moved = rounded(point + tl.where(tl.abs(gradient) < float("inf"), move, 0.0), dtype)
    # a NaN in x must reach the result
    result = tl.maximum(moved, lower, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(result, upper, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def linf_step_kernel(
    out, x_adv, grad, x, cols, radius: tl.float64, step_size: tl.float64, lo: tl.float64, hi: tl.float64,
    radius_rows, step_size_rows, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(cols, BLOCK)
    row = program // blocks
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = column < cols
    at = row * cols + column
    limit = towards_zero(per_row(radius, radius_rows, row)).to(tl.float64)
    length = per_row(step_size, step_size_rows, row).to(tl.float32)
    low = edge(lo, dtype)
    high = edge(hi, dtype)

    point = load(x_adv, at, mask)
    gradient = load(grad, at, mask)
    center = load(x, at, mask)
    store(out, at, step(point, gradient, center, limit, length, low, high, dtype), mask)


def launch(
    out: Tensor, x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float,
    hi: float, radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> None:  # fmt: skip
    if out.numel() == 0:
        return
    target, *inputs = _common.common_layout(out, x_adv, grad, x)
    # a batch without values a row is one long row, and short samples waste no lanes
    rows = 1 if radius_rows is None and step_size_rows is None else len(out)
    cols = out.numel() // rows
    wide = width(linf_step_kernel, out.device, Width(_common.WIDTH, 4))
    _common.start(
        linf_step_kernel, rows * triton.cdiv(cols, wide.BLOCK), target, *inputs, cols, radius, step_size,
        lo, hi, _common.rows64(radius_rows), _common.rows64(step_size_rows), **wide._asdict(),
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
