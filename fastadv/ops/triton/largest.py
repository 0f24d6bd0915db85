"""largest on a GPU: one program a row, in the order of the bits (see csrc/kernels/largest.inl)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import in_one_layout, start_rows

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


@triton.jit
def largest_kernel(out, values, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = values.dtype.element_ty
    most = tl.zeros((BLOCK,), dtype)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        bits = tl.load(values + row * cols + at, mask=at < cols, other=0)
        # The sign is left out
        most = tl.maximum(most, bits & (0x7FFF if dtype == tl.int16 else 0x7FFFFFFF))
    tl.store(out + row, tl.max(most))


def launch(out: Tensor, values: Tensor) -> None:
    (dense,) = in_one_layout(values)
    bits = BITS[values.dtype]
    start_rows(largest_kernel, out.view(bits), dense.view(bits), dense.shape[1:].numel())
