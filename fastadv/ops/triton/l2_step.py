"""l2_step on a GPU (see ops/l2_step.py, _l2.py): one program a row."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l2, _row
from fastadv.ops.triton._common import edge, inner, load, per_row, read_points, step_of


@triton.jit
def _read(source, at, mask):
    x_adv, grad, x, center = source
    point, origin = read_points((x_adv, x, center), at, mask)
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
def l2_step_kernel(
    out, x_adv, grad, x, cols, radius: tl.float64, step_size: tl.float64, lo: tl.float64, hi: tl.float64,
    radius_rows, step_size_rows, BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    limit = per_row(radius, radius_rows, row)
    step = per_row(step_size, step_size_rows, row)
    if CHUNKS == 0:
        square = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, cols, BLOCK):
            at = first + tl.arange(0, BLOCK)
            gradient = load(grad + skip, at, at < cols).to(tl.float64)
            square += gradient * gradient
        norm = tl.sqrt(tl.sum(square))
        usable = (norm > 0) & (norm < float("inf"))
        scale = tl.where(usable, step / tl.where(usable, norm, 1.0), 0.0)
        _l2.project(out + skip, x_adv + skip, grad + skip, x + skip, cols, limit, scale, lo, hi, BLOCK)
    else:
        low = edge(lo, out.dtype.element_ty)
        high = edge(hi, out.dtype.element_ty)
        source = x_adv + skip, grad + skip, x + skip, inner(low, high)
        parts = _row.hold(_read, source, cols, BLOCK, CHUNKS)
        norm = tl.sqrt(tl.sum(_row.fold(_square, _row.zeros(tl.float64, parts), 0, parts)))
        usable = (norm > 0) & (norm < float("inf"))
        # a power of two brings the norm near one, so that no gradient leaves float32
        power = ((norm.to(tl.int64, bitcast=True) >> 52) & 0x7FF).to(tl.int32) - 1023
        unit = ((127 - tl.minimum(tl.maximum(power, -126), 126)) << 23).to(tl.float32, bitcast=True)
        length = tl.where(usable, norm * unit.to(tl.float64), 1.0)
        points = _row.change(_moved, (usable, unit, (step / length).to(tl.float32)), parts)
        _l2.project_row(out + skip, limit, low, high, points)


launch = step_of(l2_step_kernel, chunks=3)
