"""project_l0 on a GPU (see ops/project_l0.py, _l0.py): one program a row computes the gains in each pass."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l0
from fastadv.ops.triton._common import clamp, edge, load, per_row, projection_of, store

_SIGN = tl.constexpr(-(2**63))


@triton.jit
def _gains(source, at, mask):
    """Gains as unsigned integers in the same order; NaN above all."""
    x_adv, x, low, high = source
    point = load(x_adv, at, mask)
    moved = point.to(tl.float64) - load(x, at, mask).to(tl.float64)
    lost = point.to(tl.float64) - clamp(point, low, high).to(tl.float64)
    # adding zero makes -0 the same as 0
    gain = moved * moved - lost * lost + 0.0
    bits = gain.to(tl.int64, bitcast=True)
    keys = tl.where(bits < 0, ~bits, bits | _SIGN).to(tl.uint64, bitcast=True)
    return tl.where(gain == gain, keys, tl.zeros_like(keys) - 1)


@triton.jit
def project_l0_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows, BLOCK: tl.constexpr
):
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    low = edge(lo, dtype)
    high = edge(hi, dtype)
    source = (x_adv + skip, x + skip, low, high)
    k = tl.minimum(per_row(radius, radius_rows, row), (cols + tl.zeros((), tl.int64)).to(tl.float64)).to(
        tl.int64
    )
    key, ties = _l0.cut(_gains, source, cols, k, BLOCK)
    seen = tl.zeros((), tl.int32)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        mask = at < cols
        keep, seen = _l0.kept(_gains(source, at, mask), key, ties, seen, mask)
        value = tl.where(keep, clamp(load(x_adv + skip, at, mask), low, high), load(x + skip, at, mask))
        store(out + skip, at, value, mask)


# ties go to the lower index
launch = projection_of(project_l0_kernel, ordered=True)
