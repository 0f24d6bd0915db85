"""l2_step on a GPU: one program a row; the gradient's norm, then the projection (see ops/_l2.py)."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l2, _row
from fastadv.ops.triton._common import edge, inner, load, per_row, step_of


@triton.jit
def _read(source, at, mask):
    x_adv, grad, x, center = source
    point, origin = _l2.read((x_adv, x, center), at, mask)
    return point, load(grad, at, mask), origin


@triton.jit
def _square(total, part, at, state):
    _, gradient, _ = part
    wide = gradient.to(tl.float64)
    return total + wide * wide


@triton.jit
def _moved(part, at, state):
    """Return (point, x), the point a step further."""
    point, gradient, x = part
    usable, unit, scale = state
    # a row without a step may hold NaN in its gradient
    return tl.where(usable, point + scale * (gradient * unit), point), x


@triton.jit
def _read_moved(source, at, mask):
    pointers, state = source
    return _moved(_read(pointers, at, mask), at, state)


@triton.jit
def l2_step_kernel(
    out, x_adv, grad, x, cols, radius: tl.float64, step_size: tl.float64, lo: tl.float64, hi: tl.float64,
    radius_rows, step_size_rows, BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    low = edge(lo, out.dtype.element_ty)
    high = edge(hi, out.dtype.element_ty)
    source = x_adv + skip, grad + skip, x + skip, inner(low, high)
    parts = _row.hold(_read, source, cols, BLOCK, CHUNKS)
    norm = tl.sqrt(tl.sum(_row.fold(_square, _row.zeros(tl.float64, parts), 0, _read, parts)))
    usable = (norm > 0) & (norm < float("inf"))
    # a power of two brings the norm near one, so that no gradient leaves float32
    power = ((norm.to(tl.int64, bitcast=True) >> 52) & 0x7FF).to(tl.int32) - 1023
    unit = ((127 - tl.minimum(tl.maximum(power, -126), 126)) << 23).to(tl.float32, bitcast=True)
    length = tl.where(usable, norm * unit.to(tl.float64), 1.0)
    scale = (per_row(step_size, step_size_rows, row) / length).to(tl.float32)
    points = _row.change(_moved, (usable, unit, scale), parts)
    _l2.project(out + skip, per_row(radius, radius_rows, row), low, high, _read_moved, points)


launch = step_of(l2_step_kernel, chunks=3)
