"""stencil on a GPU (see ops/stencil.py): one program a block of pixels of a plane."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import WIDTH, load, rounded, start, store


@triton.jit
def _moved(place, offset, size):
    """Return the places at an offset, or at the edge."""
    return tl.minimum(tl.maximum(place + tl.minimum(tl.maximum(offset, -size), size), 0), size - 1)


@triton.jit
def stencil_kernel(
    out, x, offsets, weights, channels, height, width, taps, own_offsets, own_weights, BLOCK: tl.constexpr
):
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    program = tl.program_id(0)
    plane = (program // blocks).to(tl.int64)
    sample = plane // channels
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    row = at // width
    column = at % width
    shift = offsets + sample * own_offsets
    weight = weights + sample * own_weights
    total = tl.zeros((BLOCK,), tl.float32)
    for t in range(taps):
        down = _moved(row, tl.load(shift + 2 * t), height)
        right = _moved(column, tl.load(shift + 2 * t + 1), width)
        total += tl.load(weight + t) * load(x + plane * size, down * width + right, mask)
    store(out + plane * size, at, rounded(total, out.dtype.element_ty), mask)


def launch(out: Tensor, x: Tensor, offsets: Tensor, weights: Tensor) -> None:
    count, channels, height, width = x.shape
    target = out if out.is_contiguous() else out.contiguous()
    taps = offsets.shape[1]
    own = 2 * taps if len(offsets) > 1 else 0, taps if len(weights) > 1 else 0
    programs = count * channels * triton.cdiv(height * width, WIDTH)
    tables = (x, offsets, weights)
    start(
        stencil_kernel, programs, target, *(table.contiguous() for table in tables), channels, height, width,
        taps, *own, BLOCK=WIDTH,
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
