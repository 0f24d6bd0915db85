"""random_start on a GPU (see ops/random_start.py): one program a row draws anew in each pass."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _common, _l0, _philox
from fastadv.ops.triton._common import add_towards, clamp, edge, load, per_row, rounded, store


@triton.jit
def _keys(stream, at, mask):
    """Map words to keys in reverse order."""
    return 0xFFFFFFFF - _philox.words(at, stream).to(tl.uint64)


@triton.jit
def _sizes(at, stream):
    """Turn uniforms into exponentials; 1 - u is exact."""
    return -tl.log(1.0 - _philox.uniform(_philox.words(at, stream)))


@triton.jit
def _scale(cols, stream, limit, NORM: tl.constexpr, BLOCK: tl.constexpr):
    """Return the factor that brings the direction to its length."""
    total = tl.zeros((BLOCK,), tl.float64)
    if NORM == "l2":
        for first in range(0, cols, BLOCK):
            direction = _philox.normal_block(first, stream, BLOCK)
            total += tl.where(first + tl.arange(0, BLOCK) < cols, direction * direction, 0.0)
        length = tl.sqrt(tl.sum(total))
        # normals use whole pairs of words; the distance takes the first word after them
        level = _philox.uniform(_philox.words(cols + cols % 2 + tl.zeros((1,), tl.int32), stream))
        power = tl.sum(tl.where(level > 0, tl.exp(tl.log(tl.where(level > 0, level, 1.0)) / cols), 0.0))
        return limit * power / tl.where(length > 0, length, 1.0)
    else:
        for first in range(0, cols + 1, BLOCK):
            at = first + tl.arange(0, BLOCK)
            total += tl.where(at <= cols, _sizes(at, stream), 0.0)
        whole = tl.sum(total)
        return limit / tl.where(whole > 0, whole, 1.0)


@triton.jit(do_not_specialize=["key_low", "key_high", "draw"])
def random_start_kernel(
    out, x, cols, ids, radius: tl.float64, lo: tl.float64, hi: tl.float64, radius_rows,
    key_low: tl.uint32, key_high: tl.uint32, draw: tl.uint32, NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    stream = _philox.stream_of(ids, row, key_low, key_high, draw)
    limit = per_row(radius, radius_rows, row)
    low = edge(lo, dtype)
    high = edge(hi, dtype)
    if NORM == "l0":
        lo64 = tl.full((), lo, tl.float64)
        k = tl.minimum(limit, (cols + tl.zeros((), tl.int64)).to(tl.float64)).to(tl.int64)
        key, ties = _l0.cut(_keys, stream, cols, k, BLOCK)
        seen = tl.zeros((), tl.int32)
    elif NORM != "linf":
        scale = _scale(cols, stream, limit, NORM, BLOCK)

    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        mask = at < cols
        center = load(x + row * cols, at, mask)
        if NORM == "l0":
            keep, seen = _l0.kept(_keys(stream, at, mask), key, ties, seen, mask)
            drawn = lo64 + (tl.full((), hi, tl.float64) - lo64) * _philox.uniform(
                _philox.words(cols + at, stream)
            )
            value = tl.where(keep, rounded(drawn.to(tl.float32), dtype), center)
        else:
            if NORM == "linf":
                shift = limit * (2.0 * _philox.uniform(_philox.block(first, stream, BLOCK)) - 1.0)
            elif NORM == "l2":
                shift = scale * _philox.normal_block(first, stream, BLOCK)
            else:
                size = scale * _sizes(at, stream)
                shift = tl.where((_philox.words(at, stream) & 1) == 1, -size, size)
            value = add_towards(center, shift, dtype)
        store(out + row * cols, at, clamp(value, low, high), mask)


def launch(
    out: Tensor, x: Tensor, ids: Tensor, norm: str, radius: float, lo: float, hi: float, seed: int, draw: int,
    radius_rows: Tensor | None = None,
) -> None:  # fmt: skip
    rest = ids.contiguous(), radius, lo, hi, _common.rows64(radius_rows), *_philox.seeded(seed, draw), norm
    # the word of an element depends on the order
    # wider blocks spill registers on sm_90
    _common.over_rows(random_start_kernel, out, (x,), *rest, ordered=True, block=512)
