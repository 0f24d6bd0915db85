"""project_l1 on a GPU: one program a row (see ops/_l1.py)."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l1
from fastadv.ops.triton._common import per_row, projection_of


@triton.jit
def project_l1_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    _l1.project(
        out + skip, x_adv + skip, None, x + skip, cols, None, per_row(radius, radius_rows, row), lo, hi, BLOCK
    )


# wider blocks spill registers on sm_90
launch = projection_of(project_l1_kernel, block=512)
