"""square_l2 on a GPU (see ops/square_l2.py): one program a row measures its channels, writes, projects."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.square_l2 import TINY
from fastadv.ops.triton import _l2, _windows
from fastadv.ops.triton._common import clamp, load, over_rows, per_row, rounded, rows64, store

_TINY = tl.constexpr(TINY)


@triton.jit
def _delta(best, x, at, mask):
    """Return (x, best - x) as float64."""
    center = load(x, at, mask).to(tl.float64)
    return center, load(best, at, mask).to(tl.float64) - center


@triton.jit
def _sign(words, channel):
    return 1.0 - 2.0 * (tl.load(words + 5 + channel) & 1).to(tl.float64)


@triton.jit
def _fresh(bumps, sign, delta, length, window, at, width):
    """Return bumps and what the window held, brought to length 1: its new pixels, but for the length."""
    changed = _windows.inside(window, at, width)
    bump = load(bumps, _windows.number(window, at, width), changed).to(tl.float64)
    return tl.where(changed, sign * bump + delta / length, 0.0)


@triton.jit
def _measured(best, x, bumps, sign, window, other, pixels, width, BLOCK: tl.constexpr):
    """Return a channel's (length in the window, squares in both, squares elsewhere, squares of `_fresh`)."""
    old = tl.zeros((BLOCK,), tl.float64)
    both = tl.zeros((BLOCK,), tl.float64)
    rest = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, pixels, BLOCK):
        at = first + tl.arange(0, BLOCK)
        _, delta = _delta(best, x, at, at < pixels)
        energy = delta * delta
        changed = _windows.inside(window, at, width)
        taken = changed | _windows.inside(other, at, width)
        old += tl.where(changed, energy, 0.0)
        both += tl.where(taken, energy, 0.0)
        rest += tl.where(taken, 0.0, energy)
    length = tl.maximum(tl.sqrt(tl.sum(old)), _TINY)

    size = tl.zeros((BLOCK,), tl.float64)
    # from the first pixel of the window's first row
    begin = window[0] * width
    for first in range(begin, begin + window[2] * width, BLOCK):
        at = first + tl.arange(0, BLOCK)
        _, delta = _delta(best, x, at, at < pixels)
        fresh = _fresh(bumps, sign, delta, length, window, at, width)
        size += fresh * fresh
    return length, tl.sum(both), tl.sum(rest), tl.sum(size)


@triton.jit(do_not_specialize=["tall", "wide"])
def square_l2_kernel(
    out, best, x, cols, words, bumps, channels, pixels, height, width, tall, wide, radius: tl.float64,
    lo: tl.float64, hi: tl.float64, radius_rows, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    limit = per_row(radius, radius_rows, row)
    words += row * (5 + channels)
    window = _windows.placed(words, height, width, tall, wide)
    other = _windows.placed(words + 2, height, width, tall, wide)
    bumps += (tl.load(words + 4) & 1) * tall * wide

    spent = tl.full((), 0.0, tl.float64)
    # squares of the proposal: `kept`, and what is unspent in `taking` channels
    kept = tl.full((), 0.0, tl.float64)
    taking = tl.full((), 0.0, tl.float64)
    for channel in range(0, channels):
        skip = row * cols + channel * pixels
        sign = _sign(words, channel)
        _, both, rest, size = _measured(
            best + skip, x + skip, bumps, sign, window, other, pixels, width, BLOCK
        )
        full = size / tl.maximum(size, _TINY * _TINY)
        spent += both + rest
        kept += both * full + rest
        taking += full
    unspent = tl.maximum(limit * limit - spent, 0.0) / channels
    whole = limit / tl.maximum(tl.sqrt(kept + taking * unspent), _TINY)

    for channel in range(0, channels):
        skip = row * cols + channel * pixels
        sign = _sign(words, channel)
        length, both, _, size = _measured(
            best + skip, x + skip, bumps, sign, window, other, pixels, width, BLOCK
        )
        scale = tl.sqrt(unspent + both) / tl.maximum(tl.sqrt(size), _TINY)
        for first in range(0, pixels, BLOCK):
            at = first + tl.arange(0, BLOCK)
            mask = at < pixels
            center, delta = _delta(best + skip, x + skip, at, mask)
            fresh = scale * _fresh(bumps, sign, delta, length, window, at, width)
            taken = _windows.inside(window, at, width) | _windows.inside(other, at, width)
            delta = tl.where(taken, fresh, delta)
            moved = clamp(center + whole * delta, tl.full((), lo, tl.float64), tl.full((), hi, tl.float64))
            store(out + skip, at, rounded(moved.to(tl.float32), dtype), mask)

    # every thread has written its part before another reads it
    tl.debug_barrier()
    skip = row * cols
    _l2.project(out + skip, out + skip, None, x + skip, cols, limit, limit, lo, hi, BLOCK)


def launch(
    out: Tensor, best: Tensor, x: Tensor, words: Tensor, bumps: Tensor, channels: int, height: int,
    width: int, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None,
) -> None:  # fmt: skip
    image = channels, height * width, height, width
    over_rows(
        square_l2_kernel, out, (best, x), words.contiguous(), bumps.contiguous(), *image, *bumps.shape[1:],
        radius, lo, hi, rows64(radius_rows), ordered=True,
    )  # fmt: skip
