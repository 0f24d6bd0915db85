"""The exact projection of a row on an L1 ball in a box (see ops/_projection.py), for project_l1 and l1_step.

A row in registers is searched in float32, and from there in float64; a longer one in float64 alone.
"""

import triton
import triton.language as tl

from fastadv.ops._rows import ROUNDING
from fastadv.ops.triton import _row
from fastadv.ops.triton._common import add_towards, clamp, edge, load, store

_ROUNDING = tl.constexpr(ROUNDING)
_ROUNDS = tl.constexpr(200)
_ROUNDS32 = tl.constexpr(24)  # float64 goes on from wherever float32 ends


@triton.jit
def steepness(grad, at, mask):
    """Return (|grad| as the bits of a float, which order like it; whether it points up)."""
    gradient = load(grad, at, mask)
    return tl.abs(gradient).to(tl.int32, bitcast=True), gradient > 0


@triton.jit
def ahead(point, upward, lo, hi):
    """Return how far a float64 point may go before the edge of the box, as a number >= 0; 0 for NaN."""
    room = tl.where(upward, hi - point, point - lo)
    return tl.where(room > 0, room, 0.0)


@triton.jit
def _offset(x_adv, grad, x, ascent, lo, hi, at, mask):
    """Return (x, v, room): v = x_adv + ascent - x, and how far |v| may grow before the box stops it."""
    # steeper coordinates than `level` go to the edge, so do as steep ones before `last`, which goes by `rest`
    center = load(x, at, mask)
    origin = center.to(tl.float64)
    point = load(x_adv, at, mask).to(tl.float64)
    if grad is not None:
        level, last, rest = ascent
        steep, upward = steepness(grad, at, mask)
        dtype: tl.constexpr = x.dtype.element_ty
        room = ahead(point, upward, edge(lo, dtype).to(tl.float64), edge(hi, dtype).to(tl.float64))
        tied = steep == level
        taken = tl.where(
            (steep > level) | (tied & (at < last)), room, tl.where(tied & (at == last), rest, 0.0)
        )
        point = tl.where(upward, point + taken, point - taken)
    v = point - origin
    room = tl.where(v > 0, tl.full((), hi, tl.float64) - origin, origin - tl.full((), lo, tl.float64))
    return center, v, room


@triton.jit
def _kept(w, room, threshold):
    shrunk = w - threshold
    return tl.where(shrunk > room, room, tl.where(shrunk < 0, 0.0, shrunk))


@triton.jit
def _evaluate(x_adv, grad, x, cols, ascent, lo, hi, threshold, BLOCK: tl.constexpr):
    """Return (L1 norm of what `threshold` keeps, how many coordinates it falls by as that rises)."""
    norm = tl.zeros((BLOCK,), tl.float64)
    falling = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        _, v, room = _offset(x_adv, grad, x, ascent, lo, hi, at, at < cols)
        w = tl.abs(v)
        norm += tl.where(at < cols, _kept(w, room, threshold), 0.0)
        falling += ((at < cols) & (w > threshold) & (w - threshold <= room)).to(tl.int32)
    return tl.sum(norm), tl.sum(falling).to(tl.float64)


@triton.jit
def project(out, x_adv, grad, x, cols, ascent, radius, lo, hi, BLOCK: tl.constexpr):
    """Write row `out`, which may be x_adv: that, moved by `ascent` (see `_offset`), projected."""
    dtype: tl.constexpr = out.dtype.element_ty
    threshold = tl.full((), 0.0, tl.float64)
    norm, falling = _evaluate(x_adv, grad, x, cols, ascent, lo, hi, threshold, BLOCK)
    if norm > radius * _ROUNDING:
        largest = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, cols, BLOCK):
            at = first + tl.arange(0, BLOCK)
            _, v, _ = _offset(x_adv, grad, x, ascent, lo, hi, at, at < cols)
            largest = tl.maximum(largest, tl.where(at < cols, tl.abs(v), 0.0))
        top = tl.max(largest)
        below = threshold
        above = top
        rounds = 0
        middle = (below + above) / 2
        searching = top > 0
        while searching:
            newton = threshold + (norm - radius) / falling
            within = (newton > below) & (newton <= above) & (rounds % 4 != 3)
            threshold = tl.where(within, newton, middle)
            norm, falling = _evaluate(x_adv, grad, x, cols, ascent, lo, hi, threshold, BLOCK)
            below = tl.where(norm > radius, threshold, below)
            above = tl.where(norm > radius, above, threshold)
            middle = (below + above) / 2
            rounds += 1
            close = tl.abs(norm - radius) <= falling * top * 1e-16
            searching = (close == 0) & (middle > below) & (middle < above) & (rounds < _ROUNDS)
        newton = threshold + (norm - radius) / falling
        threshold = tl.where((newton >= below) & (newton <= above), newton, above)
        # nothing is kept that may not be, to the last bit
        threshold = tl.where(radius > 0, threshold, top)

    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        center, v, room = _offset(x_adv, grad, x, ascent, lo, hi, at, at < cols)
        size = _kept(tl.abs(v), room, threshold)
        shift = tl.where(v < 0, -size, size)
        store(out, at, clamp(add_towards(center, shift, dtype), edge(lo, dtype), edge(hi, dtype)), at < cols)


@triton.jit
def _offset_of(part, at, state, kind: tl.constexpr):
    """Return (v, room) as `_offset` does; coordinate `last` lies `rest` beyond its point."""
    point, x = part
    threshold, last, rest, lo, hi, _ = state
    x = x + threshold.to(tl.float32) * 0.0  # or the compiler keeps what follows from x in registers, too
    origin = x.to(kind)
    v = (point.to(kind) - origin) + tl.where(at == last, rest, 0.0).to(kind)
    return v, tl.where(v > 0, hi.to(kind) - origin, origin - lo.to(kind))


@triton.jit
def _norm_and_top(sums, part, at, state):
    """Add to the norm of the point in the box, and to the largest |v|."""
    norm, top = sums
    v, room = _offset_of(part, at, state, tl.float64)
    inside = at < state[5]
    w = tl.abs(v)
    return norm + tl.where(inside, _kept(w, room, 0.0), 0.0), tl.maximum(top, tl.where(inside, w, 0.0))


@triton.jit
def _evaluation(sums, part, at, state):
    """Add to what `_evaluate` returns."""
    norm, falling = sums
    kind: tl.constexpr = norm.dtype
    v, room = _offset_of(part, at, state, kind)
    w = tl.abs(v)
    threshold = state[0]
    inside = at < state[5]
    falls = inside & (w > threshold) & (w - threshold <= room)
    return norm + tl.where(inside, _kept(w, room, threshold), 0.0), falling + falls.to(kind)


@triton.jit
def _solve(threshold, top, radius, limit, ulp, bounds, row):
    """Return the threshold that keeps `radius`, by Newton's method inside a bracket, in the dtype of all."""
    last, rest, lo, hi, cols = bounds
    kind: tl.constexpr = threshold.dtype
    below = tl.zeros_like(threshold)
    above = top
    rounds = 0
    searching = top > 0
    while searching:
        state = threshold, last, rest, lo, hi, cols
        norm, falling = _row.totals(_evaluation, kind, state, row)
        below = tl.where(norm > radius, threshold, below)
        above = tl.where(norm > radius, above, threshold)
        middle = below + (above - below) / 2
        newton = threshold + (norm - radius) / falling
        close = tl.abs(norm - radius) <= tl.maximum(falling * top, radius) * ulp
        searching = (close == 0) & (middle > below) & (middle < above) & (rounds < limit)
        within = (newton > below) & (newton <= above) & (rounds % 4 != 3)
        final = tl.where((newton >= below) & (newton <= above), newton, above)
        threshold = tl.where(searching, tl.where(within, newton, middle), final)
        rounds += 1
    return threshold


@triton.jit
def _write(count, part, at, state):
    out, origin_state = state
    threshold, _, _, lo, hi, cols = origin_state
    dtype: tl.constexpr = out.dtype.element_ty
    v, room = _offset_of(part, at, origin_state, tl.float64)
    size = _kept(tl.abs(v), room, threshold)
    moved = add_towards(part[1], tl.where(v < 0, -size, size), dtype)
    store(out, at, clamp(moved, edge(lo, dtype), edge(hi, dtype)), at < cols)
    return count


@triton.jit
def project_row(out, last, rest, radius, lo, hi, row):
    """Write row `out`: the points of `row` in registers, `last` moved by the float64 `rest`, projected."""
    lo = tl.full((), lo, tl.float64)
    hi = tl.full((), hi, tl.float64)
    threshold = tl.full((), 0.0, tl.float64)
    nothing = _row.zeros(tl.float64, row)
    bounds = last, rest, lo, hi, row[2]
    state = threshold, last, rest, lo, hi, row[2]
    norm, tops = _row.fold(_norm_and_top, (nothing, nothing), state, row)
    top = tl.max(tops)
    if tl.sum(norm) > radius * _ROUNDING:
        near = _solve(
            threshold.to(tl.float32), top.to(tl.float32), radius.to(tl.float32), _ROUNDS32, 2.0**-22, bounds,
            row,
        ).to(tl.float64)  # fmt: skip
        near = tl.where((near >= 0) & (near <= top), near, 0.0)
        threshold = _solve(near, top, radius, _ROUNDS, 1e-16, bounds, row)
        # nothing is kept that may not be, to the last bit
        threshold = tl.where(radius > 0, threshold, top)
    _row.fold(_write, 0, (out, (threshold, last, rest, lo, hi, row[2])), row)
