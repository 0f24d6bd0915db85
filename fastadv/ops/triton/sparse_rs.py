"""sparse_rs on a GPU (see ops/sparse_rs.py, _l0.py): one program a row draws its words anew in each pass."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _l0, _philox
from fastadv.ops.triton._common import edge, load, over_rows, store

_NONE = tl.constexpr(0)  # the key of coordinates that are not to be picked: below all others


@triton.jit
def _leaving(source, at, mask):
    """Keys of the coordinates that differ, larger where their words are."""
    best, x, _, stream, _ = source
    moved = mask & (load(best, at, mask) != load(x, at, mask))
    return tl.where(moved, _philox.words(at, stream).to(tl.uint64) + 1, _NONE)


@triton.jit
def _coming(source, at, mask):
    """Keys of the coordinates that are free to come, larger where their words are smaller."""
    _, x, out, stream, allowed = source
    free = mask & (load(out, at, mask) == load(x, at, mask))
    if allowed is not None:
        free = free & (tl.load(allowed + at, mask=mask, other=0) != 0)
    return tl.where(free, 0x100000000 - _philox.words(at, stream).to(tl.uint64), _NONE)


@triton.jit
def _picked(keys, key, ties, seen, mask):
    picked, seen = _l0.kept(keys, key, ties, seen, mask)
    return picked & (keys > _NONE), seen


@triton.jit(do_not_specialize=["key_low", "key_high", "draw"])
def sparse_rs_kernel(
    out, best, x, cols, ids, leaving, count, lo: tl.float64, hi: tl.float64, allowed,
    key_low: tl.uint32, key_high: tl.uint32, draw: tl.uint32, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    best += skip
    x += skip
    out += skip
    if allowed is not None:
        allowed += skip
    source = (best, x, out, _philox.stream_of(ids, row, key_low, key_high, draw), allowed)
    low = edge(lo, dtype)
    high = edge(hi, dtype)
    wide = cols + tl.zeros((), tl.int64)
    leaves = tl.minimum(tl.load(leaving + row), wide)
    key, ties = _l0.cut(_leaving, source, cols, leaves, BLOCK)
    seen = tl.zeros((), tl.int32)
    differ = tl.zeros((BLOCK,), tl.int64)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        mask = at < cols
        left, seen = _picked(_leaving(source, at, mask), key, ties, seen, mask)
        center = load(x, at, mask)
        value = tl.where(left, center, load(best, at, mask))
        differ += (mask & (value != center)).to(tl.int64)
        store(out, at, value, mask)
    # every thread has written its part before another reads it
    tl.debug_barrier()

    comes = tl.minimum(tl.maximum(tl.load(count + row) - tl.sum(differ), 0), wide)
    key, ties = _l0.cut(_coming, source, cols, comes, BLOCK)
    seen = tl.zeros((), tl.int32)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        mask = at < cols
        come, seen = _picked(_coming(source, at, mask), key, ties, seen, mask)
        now = load(best, at, mask)
        up = (now == low) | ((now != high) & ((_philox.words(at, source[3]) & 1) == 1))
        store(out, at, tl.where(up, high, low), come)


def launch(
    out: Tensor, best: Tensor, x: Tensor, ids: Tensor, leaving: Tensor, count: Tensor, lo: float, hi: float,
    seed: int, draw: int, mask: Tensor | None = None,
) -> None:  # fmt: skip
    rows = (counts.contiguous() for counts in (ids, leaving, count))
    rest = lo, hi, None if mask is None else mask.contiguous(), *_philox.seeded(seed, draw)
    over_rows(sparse_rs_kernel, out, (best, x), *rows, *rest, ordered=True, block=512)
