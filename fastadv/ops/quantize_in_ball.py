"""quantize_in_ball: x_adv on the grid lo + k * (hi - lo) / levels, without leaving the ball around x.

Linf: each coordinate takes the nearest grid point within `radius`. Other norms: a coordinate goes outward
(away from x) from a certain fraction of the way on, the smallest of 4096 from 1/2 to above 1 that keeps the
row in the ball, by bisection. Where that holds no grid point, the row is rounded inward and lies outside.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv._checks import check_choice, check_count
from fastadv.errors import InputError
from fastadv.ops._rows import ORDERS, Box, PerRow, check_like, column, limits, per_row
from fastadv.ops._samples import SHAPES, batch, within
from fastadv.ops.registration.library import Sample, op, register

THRESHOLDS = 4096


def reference(
    x_adv: Tensor, x: Tensor, norm: str, radius: float, lo: float, hi: float, levels: int,
    radius_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    rows, center = x_adv.double().flatten(1), x.double().flatten(1)
    limit = column(radius, radius_rows, rows)
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
    while bool((low < high).any()):
        middle = ((low + high) / 2).floor()
        away = rounded(middle).double() - center
        fits = torch.linalg.vector_norm(away, ORDERS[norm], dim=1, keepdim=True) <= limit
        done = low >= high
        low, high = torch.where(done | fits, low, middle + 1), torch.where(done | ~fits, high, middle)
    return rounded(low).reshape(x.shape)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        x_adv, _, x = batch(shape, device, torch.float32, seed)
        grid = ((x * 255).round() / 255).to(dtype)
        for norm in ORDERS:
            for radius in (0.0, 0.05, 1.0, float("inf")):
                yield x_adv.to(dtype), grid, norm, radius, 0.0, 1.0, 255
        yield x_adv.to(dtype), x.to(dtype), "l2", 0.3, -1.0, 2.0, 16


register(
    name="quantize_in_ball",
    schema="(Tensor x_adv, Tensor x, str norm, float radius, float lo, float hi, int levels, "
    "Tensor? radius_rows=None) -> Tensor",
    summary="x_adv rounded to a grid of the box without leaving the ball around x",
    reference=reference,
    samples=samples,
    compare=within(0),
    no_gradient="rounding is flat almost everywhere",
    dtypes=(torch.float32,),
    bytes_moved=lambda x_adv, *rest: 3 * x_adv.nbytes,
    flops=lambda x_adv, *rest: 130 * x_adv.numel(),
)


def quantize_in_ball(
    x_adv: Tensor, x: Tensor, norm: str, radius: PerRow, box: Box = (0.0, 1.0), levels: int = 255
) -> Tensor:
    """Round points [B, ...] of the ball around x to `levels` + 1 equally spaced values of the finite box."""
    check_like(x_adv, x=x)
    check_choice("norm", norm, ORDERS)
    check_count("levels", levels, 1)
    lo, hi = limits(box)
    if not hi - lo < float("inf"):
        raise InputError(f"box: expected a finite one, got {box}")
    radius, radius_rows = per_row("radius", radius, x)
    return op("quantize_in_ball")(x_adv, x, norm, radius, lo, hi, levels, radius_rows)
