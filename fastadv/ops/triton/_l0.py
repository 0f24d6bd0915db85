"""The k largest of a row, the lower index first among equals, and project_l0 of a row in registers.

In registers gains are rounded to 32 bits, and where those tie, taken in float64.
"""

import triton
import triton.language as tl

from fastadv.ops.triton import _row
from fastadv.ops.triton._common import clamp, store


@triton.jit
def limits(keys_of: tl.constexpr, source, cols, BLOCK: tl.constexpr):
    """Return (smallest, largest) key of the row; keys_of(source, at, mask) gives uint64 keys."""
    least = tl.zeros((BLOCK,), tl.uint64) - 1
    most = tl.zeros((BLOCK,), tl.uint64)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        keys = keys_of(source, at, at < cols)
        least = tl.where((at < cols) & (keys < least), keys, least)
        most = tl.where((at < cols) & (keys > most), keys, most)
    return tl.min(least), tl.max(most)


@triton.jit
def count_from(keys_of: tl.constexpr, source, cols, lowest, BLOCK: tl.constexpr):
    """Return how many keys are >= lowest."""
    count = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        count += ((at < cols) & (keys_of(source, at, at < cols) >= lowest)).to(tl.int32)
    return tl.sum(count)


@triton.jit
def cut(keys_of: tl.constexpr, source, cols, k, BLOCK: tl.constexpr):
    """Return (key, ties): the k largest of `cols` keys are those above `key` and the first `ties` at it."""
    low, high = limits(keys_of, source, cols, BLOCK)
    low = tl.where(k == 0, high, low)
    searching = (k > 0) & (k < cols) & (low < high)
    # the largest key with at least k keys from it on; exactly k end the search early
    while searching:
        middle = high - (high - low) // 2
        count = count_from(keys_of, source, cols, middle, BLOCK)
        low = tl.where(count >= k, middle, low)
        high = tl.where(count >= k, high, middle - 1)
        searching = (count != k) & (low < high)
    above = tl.where(low == tl.zeros_like(low) - 1, 0, count_from(keys_of, source, cols, low + 1, BLOCK))
    return low, k - above


@triton.jit
def kept(keys, key, ties, seen, mask):
    """Return (which are among the k largest, ties seen by now); `seen` counts those of earlier blocks."""
    tie = ((keys == key) & mask).to(tl.int32)
    order = tl.cumsum(tie) + seen
    return mask & ((keys > key) | ((tie > 0) & (order <= ties))), seen + tl.sum(tie)


_INT_MIN = tl.constexpr(-(2**31))
_SIGN = tl.constexpr(-(2**63))


@triton.jit
def _gain(point, x, low, high):
    """Return what keeping the point gains, float64; adding zero makes -0 the same as 0."""
    moved = point.to(tl.float64) - x.to(tl.float64)
    lost = point.to(tl.float64) - clamp(point, low, high).to(tl.float64)
    return moved * moved - lost * lost + 0.0


@triton.jit
def exact(point, x, low, high):
    """Return gains as unsigned integers in the same order; NaN above all."""
    gain = _gain(point, x, low, high)
    bits = gain.to(tl.int64, bitcast=True)
    keys = tl.where(bits < 0, ~bits, bits | _SIGN).to(tl.uint64, bitcast=True)
    return tl.where(gain == gain, keys, tl.zeros_like(keys) - 1)


@triton.jit
def _with_key(part, at, state):
    """Return (point, x, rounded gain as an integer in the same order); past the row's end below all."""
    point, x = part
    cols, low, high = state
    gain = _gain(point, x, low, high)
    bits = gain.to(tl.float32).to(tl.int32, bitcast=True)
    key = tl.where(gain == gain, tl.where(bits < 0, _INT_MIN - bits, bits), 0x7FFFFFFF)
    return point, x, tl.where(at < cols, key, _INT_MIN)


@triton.jit
def _count(count, part, at, lowest):
    _, _, key = part
    return count + (key >= lowest).to(tl.int32)


@triton.jit
def _limits(limits, part, at, state):
    """Return the smallest and the largest exact gain at `key`, by lanes."""
    least, most = limits
    point, x, rounded = part
    key, low, high = state
    gains = exact(point, x, low, high)
    least = tl.where((rounded == key) & (gains < least), gains, least)
    return least, tl.where((rounded == key) & (gains > most), gains, most)


@triton.jit
def _count_tied(count, part, at, state):
    """Count those at `key` whose exact gain is at least `lowest`."""
    point, x, rounded = part
    key, lowest, low, high = state
    return count + ((rounded == key) & (exact(point, x, low, high) >= lowest)).to(tl.int32)


@triton.jit
def _write(nothing, part, at, state):
    point, x, rounded = part
    out, cols, key, low, high = state
    store(out, at, tl.where(rounded >= key, clamp(point, low, high), x), at < cols)
    return nothing


@triton.jit
def _write_tied(seen, part, at, state):
    """Keep of those at `key` the ones above `lowest`, and the first `ties` at it; `seen` are before."""
    point, x, rounded = part
    out, cols, key, lowest, ties, low, high = state
    gains = exact(point, x, low, high)
    tie = ((rounded == key) & (gains == lowest)).to(tl.int32)
    first = (tie > 0) & (tl.cumsum(tie) + seen <= ties)
    keep = (rounded > key) | ((rounded == key) & (gains > lowest)) | first
    store(out, at, tl.where(keep, clamp(point, low, high), x), at < cols)
    return seen + tl.sum(tie)


@triton.jit
def project(out, k, low, high, row):
    """Write row `out`: the points (point, x) of `row`, projected on k changes at most."""
    cols = row[2]
    row = _row.change(_with_key, (cols, low, high), row)
    none = _row.zeros(tl.int32, row)
    # the largest key with at least k keys from it on; exactly k end the search early
    least = tl.zeros((), tl.int64) + _INT_MIN
    most = tl.zeros((), tl.int64) + 0x7FFFFFFF
    count = -1 + tl.zeros((), tl.int32)
    while (count != k) & (least < most):
        middle = most - (most - least) // 2
        count = tl.sum(_row.fold(_count, none, middle.to(tl.int32), row))
        least = tl.where(count >= k, middle, least)
        most = tl.where(count >= k, most, middle - 1)
    key = least.to(tl.int32)
    if count == k:
        _row.fold(_write, count, (out, cols, key, low, high), row)
    else:
        above = tl.sum(_row.fold(_count, none, key + 1, row))
        above = tl.where(key == 0x7FFFFFFF, 0, above)
        zeros = _row.zeros(tl.uint64, row)
        smallest, largest = _row.fold(_limits, (zeros - 1, zeros), (key, low, high), row)
        lowest = tl.min(smallest)
        highest = tl.max(largest)
        while (count != k) & (lowest < highest):
            middle = highest - (highest - lowest) // 2
            tied = _row.fold(_count_tied, none, (key, middle, low, high), row)
            count = above + tl.sum(tied)
            lowest = tl.where(count >= k, middle, lowest)
            highest = tl.where(count >= k, highest, middle - 1)
        beyond = tl.where(lowest == tl.zeros_like(lowest) - 1, lowest, lowest + 1)
        tied = _row.fold(_count_tied, none, (key, beyond, low, high), row)
        larger = tl.where(lowest == beyond, above, above + tl.sum(tied))
        seen = tl.zeros((), tl.int32)
        _row.fold(_write_tied, seen, (out, cols, key, lowest, k - larger, low, high), row)
