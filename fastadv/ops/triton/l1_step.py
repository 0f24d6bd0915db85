"""l1_step on a GPU: one program a row; the coordinate that moves, then the projection (see ops/_l1.py)."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _l1
from fastadv.ops.triton._common import edge, load, over_rows, per_row, rows64


@triton.jit
def l1_step_kernel(
    out, x_adv, grad, x, cols, radius: tl.float64, step_size: tl.float64, lo: tl.float64, hi: tl.float64,
    radius_rows, step_size_rows, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    # each lane keeps its first largest; blocks come in order, so the lowest index among the lanes' largest is the row's first
    size = tl.zeros((BLOCK,), tl.float32)
    index = tl.zeros((BLOCK,), tl.int32) - 1
    upward = tl.zeros((BLOCK,), tl.int32)
    broken = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        slope = load(grad + skip, at, at < cols)
        point = load(x_adv + skip, at, at < cols)
        movable = tl.where(slope > 0, point < edge(hi, dtype), point > edge(lo, dtype))
        larger = movable & (tl.abs(slope) > size)
        broken |= ((slope - slope) != 0).to(tl.int32)
        size = tl.where(larger, tl.abs(slope), size)
        index = tl.where(larger, at, index)
        upward = tl.where(larger, (slope > 0).to(tl.int32), upward)
    largest = tl.max(size)
    moved = tl.min(tl.where((size == largest) & (index >= 0), index, 2147483647))
    up = tl.max(tl.where(index == moved, upward, 0))
    step = per_row(step_size, step_size_rows, row)
    usable = (largest > 0) & (tl.max(broken) == 0)
    gain = tl.where(usable, tl.where(up > 0, step, -step), 0.0)
    _l1.project(
        out + skip,
        x_adv + skip,
        x + skip,
        cols,
        moved,
        gain,
        per_row(radius, radius_rows, row),
        lo,
        hi,
        BLOCK,
    )


def launch(
    out: Tensor, x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float, hi: float,
    radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> None:  # fmt: skip
    # ties go to the lower index
    over_rows(
        l1_step_kernel, out, (x_adv, grad, x), radius, step_size, lo, hi, rows64(radius_rows), rows64(step_size_rows), ordered=True
    )  # fmt: skip
