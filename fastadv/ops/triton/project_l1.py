"""project_l1 on a GPU: one program a row (see ops/_l1.py)."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _l1
from fastadv.ops.triton._common import over_rows, per_row, rows64


@triton.jit
def project_l1_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    _l1.project(
        out + skip, x_adv + skip, None, x + skip, cols, None, per_row(radius, radius_rows, row), lo, hi, BLOCK
    )


def launch(
    out: Tensor,
    x_adv: Tensor,
    x: Tensor,
    radius: float,
    lo: float,
    hi: float,
    radius_rows: Tensor | None = None,
) -> None:
    # wider blocks spill registers on sm_90
    over_rows(project_l1_kernel, out, (x_adv, x), radius, lo, hi, rows64(radius_rows), block=512)
