"""project_l1 on a GPU: one program a row (see ops/_projection.py)."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l1, _row
from fastadv.ops.triton._common import edge, inner, per_row, projection_of, read_points


@triton.jit
def project_l1_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    limit = per_row(radius, radius_rows, row)
    if CHUNKS == 0:
        _l1.project(out + skip, x_adv + skip, None, x + skip, cols, None, limit, lo, hi, BLOCK)
    else:
        dtype: tl.constexpr = out.dtype.element_ty
        source = x_adv + skip, x + skip, inner(edge(lo, dtype), edge(hi, dtype))
        points = _row.hold(read_points, source, cols, BLOCK, CHUNKS)
        _l1.project_row(out + skip, -1, tl.full((), 0.0, tl.float64), limit, lo, hi, points)


# wider blocks spill registers on sm_90
launch = projection_of(project_l1_kernel, block=512, chunks=3)
