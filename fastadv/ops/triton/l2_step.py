"""l2_step on a GPU: one program a row; the gradient's norm, then the projection (see ops/_l2.py)."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l2
from fastadv.ops.triton._common import load, per_row, step_of


@triton.jit
def l2_step_kernel(
    out, x_adv, grad, x, cols, radius: tl.float64, step_size: tl.float64, lo: tl.float64, hi: tl.float64,
    radius_rows, step_size_rows, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    square = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        gradient = load(grad + skip, at, at < cols).to(tl.float64)
        square += gradient * gradient
    norm = tl.sqrt(tl.sum(square))
    usable = (norm > 0) & (norm < float("inf"))
    scale = tl.where(usable, per_row(step_size, step_size_rows, row) / tl.where(usable, norm, 1.0), 0.0)
    limit = per_row(radius, radius_rows, row)
    _l2.project(out + skip, x_adv + skip, grad + skip, x + skip, cols, limit, scale, lo, hi, BLOCK)


launch = step_of(l2_step_kernel)
