"""square_linf on a GPU (see ops/square_linf.py): one program a row copies it, but for the window."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _windows
from fastadv.ops.triton._common import over_rows


# a window of another size must not compile another kernel
@triton.jit(do_not_specialize=["tall", "wide"])
def square_linf_kernel(
    out, best, lower, upper, cols, words, channels, height, width, tall, wide, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    words += row * (2 + channels)
    window = _windows.placed(words, height, width, tall, wide)
    pixels = height * width
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        changed = _windows.inside(window, at % pixels, width) & (at < cols)
        up = (tl.load(words + 2 + at // pixels, mask=changed, other=0) & 1) == 1
        ends = tl.where(
            up,
            tl.load(upper + skip + at, mask=changed & up),
            tl.load(lower + skip + at, mask=changed & (up == 0)),
        )
        kept = tl.load(best + skip + at, mask=at < cols)
        tl.store(out + skip + at, tl.where(changed, ends, kept), mask=at < cols)


def launch(
    out: Tensor, best: Tensor, lower: Tensor, upper: Tensor, words: Tensor, channels: int, height: int,
    width: int, tall: int, wide: int,
) -> None:  # fmt: skip
    image = channels, height, width
    over_rows(
        square_linf_kernel, out, (best, lower, upper), words.contiguous(), *image, tall, wide, ordered=True
    )
