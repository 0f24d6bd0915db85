"""The k largest of a row, the lower index first among equals, unsorted; for project_l0 and random_start."""

import triton
import triton.language as tl


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
