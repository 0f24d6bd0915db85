"""project_l2 on a GPU: one program a row (see ops/_l2.py)."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l2
from fastadv.ops.triton._common import per_row, projection_of


@triton.jit
def project_l2_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    limit = per_row(radius, radius_rows, row)
    _l2.project(out + skip, x_adv + skip, None, x + skip, cols, limit, limit, lo, hi, BLOCK)


launch = projection_of(project_l2_kernel)
