"""The exact projection of a row on an L2 ball in a box (see ops/_projection.py), long or in registers.

In registers the search runs in float32. Float64 then counts the coordinates that it takes for free, and those
that it takes for stopped by the box, which puts the point into the ball whichever they are.
"""

import triton
import triton.language as tl

from fastadv.ops._rows import ROUNDING
from fastadv.ops.triton import _row
from fastadv.ops.triton._common import add_towards, clamp, edge, load, store

_ROUNDING = tl.constexpr(ROUNDING)


@triton.jit
def _offset(x_adv, grad, x, at, mask, scale):
    """Return (x, v): the center as float32 and v = x_adv + scale * grad - x as float64."""
    center = load(x, at, mask)
    point = load(x_adv, at, mask).to(tl.float64)
    if grad is not None:
        # scale 0 marks a row without a step, whose gradient may hold NaN
        point = tl.where(scale > 0, point + scale * load(grad, at, mask).to(tl.float64), point)
    return center, point - center.to(tl.float64)


@triton.jit
def project(out, x_adv, grad, x, cols, radius, scale, lo, hi, BLOCK: tl.constexpr):
    """Write row `out`, which may be x_adv: x_adv + scale * grad, projected."""
    dtype: tl.constexpr = out.dtype.element_ty
    lo64 = tl.full((), lo, tl.float64)
    hi64 = tl.full((), hi, tl.float64)
    square = radius * radius
    total = tl.zeros((BLOCK,), tl.float64)
    boxed = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        center, v = _offset(x_adv, grad, x, at, at < cols, scale)
        kept = tl.where(at < cols, clamp(v, lo64 - center.to(tl.float64), hi64 - center.to(tl.float64)), 0.0)
        total += v * v
        boxed += kept * kept
    inside = tl.sum(boxed) <= square * _ROUNDING
    t = tl.where(inside, 1.0, tl.sqrt(square / tl.sum(total)))

    rises = inside == 0
    while rises:
        free = tl.zeros((BLOCK,), tl.float64)
        clamped = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, cols, BLOCK):
            at = first + tl.arange(0, BLOCK)
            center, v = _offset(x_adv, grad, x, at, at < cols, scale)
            low = lo64 - center.to(tl.float64)
            high = hi64 - center.to(tl.float64)
            is_free = clamp(t * v, low, high) == t * v
            kept = clamp(v, low, high)
            free += tl.where(is_free, v * v, 0.0)
            clamped += tl.where(is_free | (at >= cols), 0.0, kept * kept)
        grown = tl.sqrt(tl.maximum(square - tl.sum(clamped), 0.0) / tl.sum(free))
        rises = (grown > t * (1 + 1e-15)) & (grown < float("inf"))
        t = tl.where(rises, grown, t)

    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        center, v = _offset(x_adv, grad, x, at, at < cols, scale)
        shift = clamp(t * v, lo64 - center.to(tl.float64), hi64 - center.to(tl.float64))
        store(out, at, clamp(add_towards(center, shift, dtype), edge(lo, dtype), edge(hi, dtype)), at < cols)


@triton.jit
def _norms(sums, part, at, state):
    """Add the squares of the offset from x, and of the one that the box leaves of it."""
    whole, boxed = sums
    point, x = part
    low, high = state
    kind: tl.constexpr = whole.dtype
    origin = x.to(kind)
    offset = point.to(kind) - origin
    kept = clamp(point, low, high).to(kind) - origin
    return whole + offset * offset, boxed + kept * kept


@triton.jit
def _stopped(point, x, t, low, high):
    """Return which coordinates leave the box, (below, above) it."""
    moved = x + t * (point - x)
    return moved < low, moved > high


@triton.jit
def _squares(sums, part, at, state):
    """Add the squares of the offsets that t scales, and of those that the box stops."""
    free, held = sums
    point, x = part
    t, low, high = state
    kind: tl.constexpr = free.dtype
    x = x + t * 0.0  # or the compiler keeps what follows from x alone in registers, too; so below
    below, above = _stopped(point, x, t, low, high)
    offset = tl.where(below, low, tl.where(above, high, point)).to(kind) - x.to(kind)
    square = offset * offset
    stopped = below | above
    return free + tl.where(stopped, 0.0, square), held + tl.where(stopped, square, 0.0)


@triton.jit
def _changes(count, part, at, state):
    """Count the coordinates that the box stops at one of two t alone."""
    point, x = part
    t, later, low, high = state
    x = x + later * 0.0
    below, above = _stopped(point, x, t, low, high)
    later_below, later_above = _stopped(point, x, later, low, high)
    return count + ((below | above) != (later_below | later_above)).to(tl.int32)


@triton.jit
def _write(rounds, part, at, state):
    point, x = part
    out, cols, t, low, high = state
    x = x + (t * 0.0).to(tl.float32)
    offset = point.to(tl.float64) - x.to(tl.float64)
    store(out, at, clamp(add_towards(x, t * offset, out.dtype.element_ty), low, high), at < cols)
    return rounds


@triton.jit
def project_row(out, radius, low, high, row):
    """Write row `out`, which may be x_adv: the points of `row`, projected."""
    limit = radius * radius
    whole, boxed = _row.totals(_norms, tl.float32, (low, high), row)
    whole = whole.to(tl.float64)
    boxed = boxed.to(tl.float64)
    if _row.clear(boxed, limit) == 0:
        whole, boxed = _row.totals(_norms, tl.float64, (low, high), row)
    inside = boxed <= limit * _ROUNDING
    # below the solution, even where float32 sums are off
    least = tl.sqrt(limit / whole) * (1 - 2e-6)
    least = tl.where(least > 1, 1.0, least)

    near = least.to(tl.float32)
    rises = inside == 0
    while rises:
        free, held = _row.totals(_squares, tl.float32, (near, low, high), row)
        grown = tl.sqrt(tl.maximum(limit.to(tl.float32) - held, 0.0) / free)
        rises = (grown > near * (1 + 1e-6)) & (grown < 1)
        near = tl.where(rises, grown, near)
    t = tl.where(inside, 1.0, least)
    rounds = tl.zeros((), tl.int32)
    changes = inside == 0
    while changes:
        free, held = _row.totals(_squares, tl.float64, (near, low, high), row)
        t = tl.sqrt(tl.maximum(limit - held, 0.0) / free)
        t = tl.where((t > least) & (t < float("inf")), t, least)
        t = tl.where(t > 1, 1.0, t)
        later = t.to(tl.float32)
        count = _row.fold(_changes, _row.zeros(tl.int32, row), (near, later, low, high), row)
        changes = (tl.sum(count) > 0) & (rounds < 32)
        near = later
        rounds += 1
    _row.fold(_write, rounds, (out, row[2], t, low, high), row)
