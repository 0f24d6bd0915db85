"""project_l2 on a GPU (see ops/project_l2.py, _l2.py): one program a row."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l2, _row
from fastadv.ops.triton._common import edge, inner, per_row, projection_of, read_points


@triton.jit
def project_l2_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    limit = per_row(radius, radius_rows, row)
    if CHUNKS == 0:
        _l2.project(out + skip, x_adv + skip, None, x + skip, cols, limit, limit, lo, hi, BLOCK)
    else:
        low = edge(lo, out.dtype.element_ty)
        high = edge(hi, out.dtype.element_ty)
        source = x_adv + skip, x + skip, inner(low, high)
        points = _row.hold(read_points, source, cols, BLOCK, CHUNKS)
        _l2.project_row(out + skip, limit, low, high, points)


launch = projection_of(project_l2_kernel, chunks=3)
