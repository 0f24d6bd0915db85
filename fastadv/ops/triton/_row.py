"""A row in registers, so that each input is read once.

A row is (chunks, lanes, cols). Chunks are what read(source, at, mask) gave for as many elements as there are
lanes, four a thread. Their number follows from the row's length alone, and so do the bits of every result.
"""

import triton
import triton.language as tl

MOST = 4_096  # values of a row in registers: of 12 a thread some spill in 512 threads, though not in 256


def shape(cols: int, chunks: int) -> dict[str, int] | None:
    """Return the launch options of a row in registers, in `chunks` at most, or None for a longer one."""
    warps = 4 if cols <= 1024 else 8  # with 4, three chunks spill where rows are not aligned
    while triton.cdiv(cols, 128 * warps) > chunks and warps < 16:
        warps *= 2
    block = 128 * warps
    return {"BLOCK": block, "CHUNKS": triton.cdiv(cols, block), "num_warps": warps} if cols <= MOST else None


@triton.jit
def hold(read: tl.constexpr, source, cols, BLOCK: tl.constexpr, CHUNKS: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    chunks = ()
    for i in tl.static_range(CHUNKS):
        at = i * BLOCK + lanes
        chunks = chunks + (read(source, at, at < cols),)  # type: ignore[assignment]  # noqa: RUF005
    return chunks, lanes, cols


@triton.jit
def change(to: tl.constexpr, state, row):
    """Return the row of to(part, at, state)."""
    chunks, lanes, cols = row
    changed = ()
    for i in tl.static_range(len(chunks)):
        changed = changed + (to(chunks[i], i * lanes.shape[0] + lanes, state),)  # type: ignore[assignment]  # noqa: RUF005
    return changed, lanes, cols


@triton.jit
def fold(step: tl.constexpr, value, state, row):
    """Return the last value = step(value, part, at, state), from chunk to chunk."""
    chunks, lanes, _ = row
    for i in tl.static_range(len(chunks)):
        value = step(value, chunks[i], i * lanes.shape[0] + lanes, state)
    return value


@triton.jit
def zeros(kind: tl.constexpr, row):
    """Return zeros, one a lane."""
    _, lanes, _ = row
    return tl.zeros(lanes.shape, kind)


@triton.jit
def totals(terms: tl.constexpr, kind: tl.constexpr, state, row):
    """Return two sums over a row, in one reduction: terms((a, b), part, at, state) adds to a and b."""
    nothing = zeros(kind, row)
    first, second = fold(terms, (nothing, nothing), state, row)
    return tl.split(tl.sum(tl.join(first, second), axis=0))


@triton.jit
def clear(total, limit):
    """Return whether a float32 sum is so far from `limit` that float64 would decide alike."""
    within = (total < limit * (1 - 1e-4)) & (limit > 1e-25)
    beyond = (total > limit * (1 + 1e-4)) & (total > 1e-30)
    return (within | beyond) & (total < 1e30)
