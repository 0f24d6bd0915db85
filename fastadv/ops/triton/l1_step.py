"""l1_step on a GPU: one program a row finds which coordinates move, and projects (see ops/_projection.py)."""

import triton
import triton.language as tl

from fastadv.ops.triton import _l1
from fastadv.ops.triton._common import edge, load, per_row, step_of

_INFINITE = tl.constexpr(0x7F800000)  # the bits of infinity
_NONE = tl.constexpr(0x7FFFFFFF)  # no float, not even NaN, has larger ones


@triton.jit
def _usable(grad, cols, BLOCK: tl.constexpr):
    """Return whether the whole gradient is finite."""
    broken = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        gradient = load(grad, at, at < cols)
        broken |= ((gradient - gradient) != 0).to(tl.int32)
    return tl.max(broken) == 0


@triton.jit
def _room(x_adv, grad, cols, least, most, until, lo, hi, BLOCK: tl.constexpr):
    """Return the room of coordinates with least <= steepness <= most and an index below `until`."""
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        mask = at < cols
        steep, upward = _l1.steepness(grad, at, mask)
        room = _l1.ahead(load(x_adv, at, mask).to(tl.float64), upward, lo, hi)
        total += tl.where(mask & (at < until) & (steep >= least) & (steep <= most), room, 0.0)
    return tl.sum(total)


@triton.jit
def _ascent(x_adv, grad, cols, step, lo, hi, BLOCK: tl.constexpr):
    """Return (level, last, rest) of steepest ascent by `step`, for `_l1.project`; nothing is sorted."""
    level = tl.zeros((), tl.int32)
    filled = tl.zeros((), tl.int32) + _INFINITE
    # the rooms from `filled` on fit into the step, those from `level` on do not
    while filled - level > 1:
        middle = level + (filled - level) // 2
        fits = _room(x_adv, grad, cols, middle, _INFINITE, cols, lo, hi, BLOCK) <= step
        level = tl.where(fits, level, middle)
        filled = tl.where(fits, middle, filled)
    left = step - _room(x_adv, grad, cols, filled, _INFINITE, cols, lo, hi, BLOCK)
    # of those at the level, all below the index `last` fit into what is left; at level 0 nothing moves
    last = tl.zeros((), tl.int32)
    past = (level > 0).to(tl.int32) * cols
    while past - last > 1:
        middle = last + (past - last) // 2
        fits = _room(x_adv, grad, cols, level, level, middle, lo, hi, BLOCK) <= left
        last = tl.where(fits, middle, last)
        past = tl.where(fits, past, middle)
    rest = left - _room(x_adv, grad, cols, level, level, last, lo, hi, BLOCK)
    return level, tl.where(level > 0, last, -1), rest


@triton.jit
def l1_step_kernel(
    out, x_adv, grad, x, cols, radius: tl.float64, step_size: tl.float64, lo: tl.float64, hi: tl.float64,
    radius_rows, step_size_rows, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    low = edge(lo, dtype).to(tl.float64)
    high = edge(hi, dtype).to(tl.float64)
    step = per_row(step_size, step_size_rows, row)
    level = tl.zeros((), tl.int32) + _NONE
    last = tl.zeros((), tl.int32) - 1
    rest = tl.full((), 0.0, tl.float64)
    if _usable(grad + skip, cols, BLOCK):
        level, last, rest = _ascent(x_adv + skip, grad + skip, cols, step, low, high, BLOCK)
    _l1.project(
        out + skip, x_adv + skip, grad + skip, x + skip, cols, (level, last, rest),
        per_row(radius, radius_rows, row), lo, hi, BLOCK,
    )  # fmt: skip


# ties go to the lower index
launch = step_of(l1_step_kernel, ordered=True)
