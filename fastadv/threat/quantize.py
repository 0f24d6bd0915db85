"""Points on the grid lo + k * (hi - lo) / levels that do not leave the ball around x.

Linf: each coordinate takes the nearest grid point within the radius. Other norms: a coordinate goes outward
(away from x) from a certain fraction of the way on, the smallest of 4096 from 1/2 to above 1 that keeps the
row in the ball, by bisection. Where that holds no grid point, the row is rounded inward and lies outside.
"""

import torch
from torch import Tensor

from fastadv._checks import check_choice, check_count
from fastadv.errors import InputError
from fastadv.ops._rows import ORDERS, Box, PerRow, check_like, column, per_row

THRESHOLDS = 4096


@torch.no_grad()
def quantize(x_adv: Tensor, x: Tensor, norm: str, radius: PerRow, box: Box, levels: int) -> Tensor:
    """Round points [B, ...] of the ball around x to `levels` + 1 equally spaced values of the finite box."""
    check_like(x_adv, x=x)
    check_choice("norm", norm, ORDERS)
    check_count("levels", levels, 1)
    lo, hi = box
    if not hi - lo < float("inf"):
        raise InputError(f"box: expected a finite one, got {box}")
    rows, center = x_adv.double().flatten(1), x.double().flatten(1)
    limit = column(*per_row("radius", radius, x), rows)
    place = ((rows - lo) / (hi - lo) * levels).clamp(0, levels)

    def value(level: Tensor) -> Tensor:
        return (lo + (hi - lo) * (level / levels)).to(x.dtype)

    if norm == "linf":
        nearest = (place + 0.5).floor().clamp(0, levels)
        candidates = torch.stack([nearest, nearest - 1, nearest + 1]).clamp(0, levels)
        points = value(candidates).double()
        misfit = torch.where((points - center).abs() <= limit, (candidates - place).abs(), float("inf"))
        return value(candidates.gather(0, misfit.argmin(0, keepdim=True)).squeeze(0)).reshape(x.shape)

    outward = rows >= center
    inner = torch.where(outward, place.floor(), place.ceil())
    outer = torch.where(outward, place.ceil(), place.floor())
    fraction = (place - inner).abs()

    def rounded(step: Tensor) -> Tensor:
        return value(torch.where(fraction >= 0.5 + step / (2 * THRESHOLDS - 2), outer, inner))

    low = torch.zeros_like(limit.expand(len(rows), 1))
    high = torch.full_like(low, THRESHOLDS)
    for _ in range(THRESHOLDS.bit_length()):
        middle = ((low + high) / 2).floor()
        away = rounded(middle).double() - center
        fits = torch.linalg.vector_norm(away, ORDERS[norm], dim=1, keepdim=True) <= limit
        done = low >= high
        low, high = torch.where(done | fits, low, middle + 1), torch.where(done | ~fits, high, middle)
    return rounded(low).reshape(x.shape)
