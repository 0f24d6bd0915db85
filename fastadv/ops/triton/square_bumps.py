"""square_bumps on a GPU (see ops/square_bumps.py): a program a row measures channels, writes, projects."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.square_bumps import TINY
from fastadv.ops.triton import _l1, _l2, _windows
from fastadv.ops.triton._common import WIDTH, clamp, load, over_rows, per_row, rounded, rows64, store

_TINY = tl.constexpr(TINY)


@triton.jit
def _delta(best, x, at, mask):
    """Return (x, best - x) as float64."""
    center = load(x, at, mask).to(tl.float64)
    return center, load(best, at, mask).to(tl.float64) - center


@triton.jit
def _power(value, NORM: tl.constexpr):
    return value * value if NORM == "l2" else tl.abs(value)


@triton.jit
def _root(total, NORM: tl.constexpr):
    """Return the length of values whose powers add up to `total`, at least TINY."""
    return tl.maximum(tl.sqrt(total) if NORM == "l2" else total, _TINY)


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
def _measured(best, x, bumps, sign, window, other, pixels, width, NORM: tl.constexpr, BLOCK: tl.constexpr):
    """Return a channel's (length in the window, powers in both, powers elsewhere, powers of `_fresh`)."""
    old = tl.zeros((BLOCK,), tl.float64)
    both = tl.zeros((BLOCK,), tl.float64)
    rest = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, pixels, BLOCK):
        at = first + tl.arange(0, BLOCK)
        _, delta = _delta(best, x, at, at < pixels)
        energy = _power(delta, NORM)
        changed = _windows.inside(window, at, width)
        taken = changed | _windows.inside(other, at, width)
        old += tl.where(changed, energy, 0.0)
        both += tl.where(taken, energy, 0.0)
        rest += tl.where(taken, 0.0, energy)
    length = _root(tl.sum(old), NORM)

    size = tl.zeros((BLOCK,), tl.float64)
    # counted from the first pixel of the window's first row
    begin = window[0] * width
    for first in range(begin, begin + window[2] * width, BLOCK):
        at = first + tl.arange(0, BLOCK)
        _, delta = _delta(best, x, at, at < pixels)
        fresh = _fresh(bumps, sign, delta, length, window, at, width)
        size += _power(fresh, NORM)
    return length, tl.sum(both), tl.sum(rest), tl.sum(size)


@triton.jit(do_not_specialize=["tall", "wide"])
def square_bumps_kernel(
    out, best, x, cols, words, bumps, channels, pixels, height, width, tall, wide, radius: tl.float64,
    lo: tl.float64, hi: tl.float64, radius_rows, NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    limit = per_row(radius, radius_rows, row)
    words += row * (5 + channels)
    window = _windows.placed(words, height, width, tall, wide, NORM == "l1")
    other = _windows.placed(words + 2, height, width, tall, wide, NORM == "l1")
    bumps += (tl.load(words + 4) & 1) * tall * wide

    spent = tl.full((), 0.0, tl.float64)
    # squares of a proposal in L2: `kept`, and what is unspent in `taking` channels
    kept = tl.full((), 0.0, tl.float64)
    taking = tl.full((), 0.0, tl.float64)
    for channel in range(0, channels):
        skip = row * cols + channel * pixels
        sign = _sign(words, channel)
        _, both, rest, size = _measured(
            best + skip, x + skip, bumps, sign, window, other, pixels, width, NORM, BLOCK
        )
        full = size / tl.maximum(size, _TINY * _TINY)
        spent += both + rest
        kept += both * full + rest
        taking += full
    unspent = tl.maximum(_power(limit, NORM) - spent, 0.0) / channels
    whole = limit / _root(kept + taking * unspent, NORM)

    for channel in range(0, channels):
        skip = row * cols + channel * pixels
        sign = _sign(words, channel)
        length, both, _, size = _measured(
            best + skip, x + skip, bumps, sign, window, other, pixels, width, NORM, BLOCK
        )
        if NORM == "l2":
            scale = tl.sqrt(unspent + both) / _root(size, NORM)
        else:
            scale = channels * (unspent + both) / _root(size, NORM)
        for first in range(0, pixels, BLOCK):
            at = first + tl.arange(0, BLOCK)
            mask = at < pixels
            center, delta = _delta(best + skip, x + skip, at, mask)
            fresh = scale * _fresh(bumps, sign, delta, length, window, at, width)
            taken = _windows.inside(window, at, width) | _windows.inside(other, at, width)
            delta = tl.where(taken, fresh, delta)
            if NORM == "l2":
                moved = clamp(
                    center + whole * delta, tl.full((), lo, tl.float64), tl.full((), hi, tl.float64)
                )
            else:
                moved = center + delta
            store(out + skip, at, rounded(moved.to(tl.float32), dtype), mask)

    # every thread has written its part before another reads it
    tl.debug_barrier()
    skip = row * cols
    if NORM == "l2":
        _l2.project(out + skip, out + skip, None, x + skip, cols, limit, limit, lo, hi, BLOCK)
    else:
        _l1.project(out + skip, out + skip, None, x + skip, cols, None, limit, lo, hi, BLOCK)


def launch(
    out: Tensor, best: Tensor, x: Tensor, words: Tensor, bumps: Tensor, channels: int, height: int,
    width: int, norm: str, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None,
) -> None:  # fmt: skip
    image = channels, height * width, height, width
    # wider blocks of the projection on L1 spill registers on sm_90
    over_rows(
        square_bumps_kernel, out, (best, x), words.contiguous(), bumps.contiguous(), *image, *bumps.shape[1:],
        radius, lo, hi, rows64(radius_rows), norm, ordered=True, block=WIDTH if norm == "l2" else 512,
    )  # fmt: skip
