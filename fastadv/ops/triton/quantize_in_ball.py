"""quantize_in_ball on a GPU (see ops/quantize_in_ball.py): one program a row bisects it."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.quantize_in_ball import THRESHOLDS
from fastadv.ops.triton._common import over_rows, per_row, rows64

_THRESHOLDS = tl.constexpr(THRESHOLDS)


@triton.jit
def _value(level, lo, hi, levels):
    return (lo + (hi - lo) * (level / levels)).to(tl.float32)


@triton.jit
def _place(point, lo, hi, levels):
    """Return where the point lies between the levels, 0 to `levels`; NaN stays NaN."""
    place = (point - lo) / (hi - lo) * levels
    return tl.where(place < 0, 0.0, tl.where(place > levels, levels, place))


@triton.jit
def _nearest(point, center, limit, lo, hi, levels):
    """Return the nearest grid point within `limit` of `center`, the lower level first among equals."""
    place = _place(point, lo, hi, levels)
    best = tl.floor(place + 0.5)
    best = tl.where(best > levels, levels, best)
    inside = tl.abs(_value(best, lo, hi, levels).to(tl.float64) - center) <= limit
    misfit = tl.where(inside, tl.abs(best - place), float("inf"))
    down = tl.where(best > 0, best - 1.0, best)
    up = tl.where(best < levels, best + 1.0, best)
    inside = tl.abs(_value(down, lo, hi, levels).to(tl.float64) - center) <= limit
    apart = tl.where(inside, tl.abs(down - place), float("inf"))
    best = tl.where(apart < misfit, down, best)
    misfit = tl.where(apart < misfit, apart, misfit)
    inside = tl.abs(_value(up, lo, hi, levels).to(tl.float64) - center) <= limit
    apart = tl.where(inside, tl.abs(up - place), float("inf"))
    return _value(tl.where(apart < misfit, up, best), lo, hi, levels)


@triton.jit
def _rounded(point, center, step, lo, hi, levels):
    """Outward where the fraction of the way is at least the threshold that `step` stands for, inward else."""
    place = _place(point, lo, hi, levels)
    below = tl.floor(place)
    above = tl.ceil(place)
    inner = tl.where(point >= center, below, above)
    outer = tl.where(point >= center, above, below)
    threshold = 0.5 + step.to(tl.float64) / (2.0 * _THRESHOLDS - 2.0)
    return _value(tl.where(tl.abs(place - inner) >= threshold, outer, inner), lo, hi, levels)


@triton.jit
def quantize_in_ball_kernel(
    out, x_adv, x, cols, radius: tl.float64, lo: tl.float64, hi: tl.float64, levels: tl.float64, radius_rows,
    NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    skip = row * cols
    limit = per_row(radius, radius_rows, row)
    lo64 = tl.full((), lo, tl.float64)
    hi64 = tl.full((), hi, tl.float64)
    top = tl.full((), levels, tl.float64)
    low = tl.zeros((), tl.int32)
    high = tl.zeros((), tl.int32) + (0 if NORM == "linf" else _THRESHOLDS)
    while low < high:
        middle = (low + high) // 2
        total = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, cols, BLOCK):
            at = first + tl.arange(0, BLOCK)
            center = tl.load(x + skip + at, mask=at < cols, other=0.0).to(tl.float64)
            point = tl.load(x_adv + skip + at, mask=at < cols, other=0.0).to(tl.float64)
            apart = tl.where(
                at < cols, _rounded(point, center, middle, lo64, hi64, top).to(tl.float64) - center, 0.0
            )
            if NORM == "l2":
                total += apart * apart
            elif NORM == "l1":
                total += tl.abs(apart)
            else:
                total += (apart != 0).to(tl.float64)
        norm = tl.sum(total)
        if NORM == "l2":
            norm = tl.sqrt(norm)
        low = tl.where(norm <= limit, low, middle + 1)
        high = tl.where(norm <= limit, middle, high)

    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        center = tl.load(x + skip + at, mask=at < cols, other=0.0).to(tl.float64)
        point = tl.load(x_adv + skip + at, mask=at < cols, other=0.0).to(tl.float64)
        value = (
            _nearest(point, center, limit, lo64, hi64, top)
            if NORM == "linf"
            else _rounded(point, center, low, lo64, hi64, top)
        )
        tl.store(out + skip + at, value, mask=at < cols)


def launch(
    out: Tensor, x_adv: Tensor, x: Tensor, norm: str, radius: float, lo: float, hi: float, levels: int,
    radius_rows: Tensor | None = None,
) -> None:  # fmt: skip
    rest = radius, lo, hi, float(levels), rows64(radius_rows), norm
    over_rows(quantize_in_ball_kernel, out, (x_adv, x), *rest)
