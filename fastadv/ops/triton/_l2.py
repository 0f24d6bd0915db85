"""The exact projection on an L2 ball in a box (see ops/_projection.py) of a row too long for registers."""

import triton
import triton.language as tl

from fastadv.ops._rows import ROUNDING
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
