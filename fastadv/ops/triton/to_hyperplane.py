"""to_hyperplane on a GPU: one program a row; Newton's steps, or in L1 bisection over the weights' bits."""

import sys

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _l1
from fastadv.ops.triton._common import WIDTH, load, over_rows, rounded, rows64, store

_INFINITE = tl.constexpr(0x7F800000)  # the bits of infinity
_MOST = tl.constexpr(sys.float_info.max)


@triton.jit
def _norm(normal, cols, BLOCK: tl.constexpr):
    """Return the L1 norm of a row; it is 0 for a zero row, and not finite if an element is not."""
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        total += tl.abs(load(normal, at, at < cols)).to(tl.float64)
    return tl.sum(total)


@triton.jit
def _ways(source, at, mask):
    """Return (bits of |normal|, whether the way goes up, its room before the edge of the box)."""
    points, normal, falls, lo, hi = source
    steep, upward = _l1.steepness(normal, at, mask)
    upward = upward != falls
    room = _l1.ahead(load(points, at, mask).to(tl.float64), upward, lo, hi)
    return steep, upward, tl.where(steep > 0, room, 0.0)


@triton.jit
def _weight(steep):
    return steep.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _level(source, cols, wanted, NORM: tl.constexpr, BLOCK: tl.constexpr):
    """Find t such that sum weight min(t pace, room) = wanted."""
    level = tl.full((), 0.0, tl.float64)
    rises = wanted > 0
    while rises:
        rate = tl.zeros((BLOCK,), tl.float64)
        held = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, cols, BLOCK):
            at = first + tl.arange(0, BLOCK)
            steep, _, room = _ways(source, at, at < cols)
            weight = _weight(steep)
            pace = weight if NORM == "l2" else tl.full((BLOCK,), 1.0, tl.float64)
            free = pace * level < room
            rate += tl.where(free, weight * pace, 0.0)
            held += tl.where(free, 0.0, weight * room)
        rates = tl.sum(rate)
        higher = tl.minimum((wanted - tl.sum(held)) / rates, _MOST)
        rises = (rates > 0) & (higher > level)
        level = tl.where(rises, higher, level)
    return level


@triton.jit
def _gain(source, cols, least, BLOCK: tl.constexpr):
    """Add up the gains of the coordinates at least as steep as `least`."""
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        steep, _, room = _ways(source, at, at < cols)
        total += tl.where(steep >= least, _weight(steep) * room, 0.0)
    return tl.sum(total)


@triton.jit
def _greedy(source, cols, wanted, BLOCK: tl.constexpr):
    """Return (cut, left): steeper coordinates than `cut` are used up, those as steep share what is `left`."""
    cut = tl.full((), 1, tl.int32)
    # zero needs no search
    above = tl.where(wanted > 0, tl.full((), _INFINITE, tl.int32), 1)
    while above - cut > 1:
        middle = cut + (above - cut) // 2
        enough = _gain(source, cols, middle, BLOCK) >= wanted
        cut = tl.where(enough, middle, cut)
        above = tl.where(enough, above, middle)
    return cut, wanted - _gain(source, cols, above, BLOCK)


@triton.jit
def to_hyperplane_kernel(
    out, points, normal, cols, lack, lo: tl.float64, hi: tl.float64, NORM: tl.constexpr, BLOCK: tl.constexpr
):
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    lacked = tl.load(lack + row)
    source = (
        points + skip, normal + skip, lacked < 0, tl.full((), lo, tl.float64), tl.full((), hi, tl.float64)
    )  # fmt: skip
    size = _norm(normal + skip, cols, BLOCK)
    # an unusable row takes no step
    usable = (size > 0) & (size < float("inf")) & (tl.abs(lacked) < float("inf"))
    wanted = tl.where(usable, tl.abs(lacked), 0.0)
    if NORM == "l1":
        cut, left = _greedy(source, cols, wanted, BLOCK)
        used = tl.full((), 0.0, tl.float64)
    else:
        level = _level(source, cols, wanted, NORM, BLOCK)

    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        steep, upward, room = _ways(source, at, at < cols)
        if NORM == "l1":
            # finite, even where the room is infinite
            gain = tl.where(steep == cut, tl.minimum(_weight(cut) * room, left), 0.0)
            rest = left - (used + tl.cumsum(gain) - gain)
            used += tl.sum(gain)
            part = tl.minimum(tl.maximum(rest, 0.0) / _weight(cut), room)
            length = tl.where(steep > cut, room, tl.where(steep == cut, part, 0.0))
        else:
            length = tl.minimum(_weight(steep) * level if NORM == "l2" else level, room)
        length = tl.where(wanted > 0, length, 0.0)
        value = tl.where(upward, length, -length)
        store(out + skip, at, rounded(value.to(tl.float32), dtype), at < cols)


def launch(
    out: Tensor, points: Tensor, normal: Tensor, lack: Tensor, norm: str, lo: float, hi: float
) -> None:
    # equal weights are used up in the order of the coordinates; in L1 wider blocks spill registers on sm_90
    over_rows(
        to_hyperplane_kernel, out, (points, normal), rows64(lack), lo, hi, norm, ordered=True,
        block=512 if norm == "l1" else WIDTH,
    )  # fmt: skip
