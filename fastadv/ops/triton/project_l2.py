"""project_l2 on a GPU: one program a row (see ops/_l2.py)."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l2, _row
from fastadv.ops.triton._common import edge, inner, per_row, projection_of


@triton.jit
def project_l2_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    low = edge(lo, out.dtype.element_ty)
    high = edge(hi, out.dtype.element_ty)
    points = _row.hold(_l2.read, (x_adv + skip, x + skip, inner(low, high)), cols, BLOCK, CHUNKS)
    _l2.project(out + skip, per_row(radius, radius_rows, row), low, high, _l2.read, points)


launch = projection_of(project_l2_kernel, chunks=3)
