"""square_linf on a GPU (see ops/square_linf.py): one program a row copies it, but for the window."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _windows
from fastadv.ops.triton._common import over_rows

SPARE = tl.constexpr(24)  # as in ops/square_linf.py


@triton.jit
def _ends(upper, lower, up, mask):
    return tl.where(up, tl.load(upper, mask=mask & up), tl.load(lower, mask=mask & (up == 0)))


# a window of another size must not compile another kernel
@triton.jit(do_not_specialize=["tall", "wide"])
def square_linf_kernel(
    out, best, lower, upper, cols, words, channels, height, width, tall, wide, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    words += row * (3 + channels)
    window = _windows.placed(words, height, width, tall, wide)
    pixels = height * width
    spare = tl.load(words + 2 + channels) & 0xFFFFFFFF
    moved = 0
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        changed = _windows.inside(window, at % pixels, width) & (at < cols)
        up = (tl.load(words + 2 + at // pixels, mask=changed, other=0) & 1) == 1
        ends = _ends(upper + skip + at, lower + skip + at, up, changed)
        kept = tl.load(best + skip + at, mask=changed)
        moved += tl.sum((changed & (ends != kept)).to(tl.int32))
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        changed = _windows.inside(window, at % pixels, width) & (at < cols)
        channel = at // pixels
        up = (tl.load(words + 2 + channel, mask=changed, other=0) & 1) == 1
        by_chance = (channel < SPARE) & (((spare >> 8 >> tl.minimum(channel, SPARE)) & 1) == 1)
        up = up != ((moved == 0) & (by_chance | (channel == spare % channels)))
        ends = _ends(upper + skip + at, lower + skip + at, up, changed)
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
