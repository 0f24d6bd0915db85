"""project_l0 on a GPU (see ops/project_l0.py, _l0.py, _l0.py): one program a row."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l0, _row
from fastadv.ops.triton._common import clamp, edge, inner, load, per_row, projection_of, read_points, store


@triton.jit
def _gains(source, at, mask):
    x_adv, x, low, high = source
    return _l0.exact(load(x_adv, at, mask), load(x, at, mask), low, high)


@triton.jit
def project_l0_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    low = edge(lo, dtype)
    high = edge(hi, dtype)
    source = (x_adv + skip, x + skip, low, high)
    k = tl.minimum(per_row(radius, radius_rows, row), (cols + tl.zeros((), tl.int64)).to(tl.float64)).to(
        tl.int64
    )
    if CHUNKS == 0:
        key, ties = _l0.cut(_gains, source, cols, k, BLOCK)
        seen = tl.zeros((), tl.int32)
        for first in range(0, cols, BLOCK):
            at = first + tl.arange(0, BLOCK)
            mask = at < cols
            keep, seen = _l0.kept(_gains(source, at, mask), key, ties, seen, mask)
            value = tl.where(keep, clamp(load(x_adv + skip, at, mask), low, high), load(x + skip, at, mask))
            store(out + skip, at, value, mask)
    else:
        places = x_adv + skip, x + skip, inner(low, high)
        points = _row.hold(read_points, places, cols, BLOCK, CHUNKS)
        _l0.project(out + skip, k, low, high, points)


# ties go to the lower index
launch = projection_of(project_l0_kernel, ordered=True, chunks=3)
