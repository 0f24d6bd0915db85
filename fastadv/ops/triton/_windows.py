"""Windows of images: a `window` is (top, left, height, width), pixels `at` are counted row by row."""

import triton
import triton.language as tl


@triton.jit
def placed(words, height, width, tall, wide, middle: tl.constexpr = False):
    """Return the window that two words place inside an image; `middle` as `middle_corners` has it."""
    # as many places as numbers below `down` and `across`, but for half of one where numbers are rounded
    more: tl.constexpr = 0 if middle else 1
    half: tl.constexpr = 2**31 if middle else 0
    top = ((tl.load(words) & 0xFFFFFFFF) * (height - tall + more) + half) >> 32
    left = ((tl.load(words + 1) & 0xFFFFFFFF) * (width - wide + more) + half) >> 32
    return top.to(tl.int32), left.to(tl.int32), tall, wide


@triton.jit
def inside(window, at, width):
    top, left, tall, wide = window
    down = at // width - top
    right = at % width - left
    return (down >= 0) & (down < tall) & (right >= 0) & (right < wide)


@triton.jit
def number(window, at, width):
    """Return the place of pixels that lie in the window among its own."""
    top, left, _, wide = window
    return (at // width - top) * wide + at % width - left
