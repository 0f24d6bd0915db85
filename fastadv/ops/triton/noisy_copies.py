"""noisy_copies on a GPU (see ops/noisy_copies.py): each block of four words makes two elements."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _philox
from fastadv.ops.triton._common import WIDTH, rounded, start, store


@triton.jit
def _choice(high, low, table, WIDTH_OF_TABLE: tl.constexpr):
    word = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    column = (word >> (64 - WIDTH_OF_TABLE)).to(tl.int64)
    bits = ((word << WIDTH_OF_TABLE) >> 17).to(tl.int64)
    entry = tl.load(table + column)
    return tl.where(bits < (entry >> 16), column, entry & 0xFFFF).to(tl.int32)


# Arguments that are not specialized: a new seed must not trigger a compilation
@triton.jit(do_not_specialize=["key_low", "key_high", "center"])
def noisy_copies_kernel(
    out, levels, rows, ids, draws, table, cols, center, step: tl.float64, key_low: tl.uint32,
    key_high: tl.uint32, TABLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(cols, BLOCK)
    row = program // blocks
    first = (program % blocks) * BLOCK
    stream = _philox.stream_of(ids, row, key_low, key_high, tl.load(draws + row))
    a, b, c, d = _philox.fours(first // 2, stream, BLOCK // 2)
    choice = tl.interleave(_choice(a, b, table, TABLE), _choice(c, d, table, TABLE))
    at = first + tl.arange(0, BLOCK)
    mask = at < cols
    level = tl.load(levels + tl.load(rows + row) * cols + at, mask=mask, other=0)
    value = (level + choice - center).to(tl.float64) * tl.full((), step, tl.float64)
    store(out + row * cols, at, rounded(value.to(tl.float32), dtype), mask)


def launch(
    out: Tensor, levels: Tensor, rows: Tensor, ids: Tensor, draws: Tensor, table: Tensor, center: int,
    step: float, seed: int, narrow: bool = False,
) -> None:  # fmt: skip
    cols = levels[0].numel() if len(levels) else 0
    programs = len(rows) * triton.cdiv(cols, WIDTH)
    tables = (levels, rows, ids, draws, table)
    keys = _philox.seeded(seed, 0)[:2]
    start(
        noisy_copies_kernel, programs, out, *(part.contiguous() for part in tables), cols, center,
        step, *keys,        TABLE=table.shape[0].bit_length() - 1, BLOCK=WIDTH,
    )  # fmt: skip
