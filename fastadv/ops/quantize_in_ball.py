"""quantize_in_ball: x_adv on the grid lo + k * (hi - lo) / levels, without leaving the ball around x.

Linf: the nearest grid point of each coordinate among those within `radius`. Other norms: a coordinate between two grid points goes outward (away
from x) where its fraction of the way is at least a threshold and inward else; the row takes the smallest threshold, from 1/2 (rounding to nearest)
to past 1 (all inward) in 4096 steps by bisection, that keeps it in the ball. Where x is off the grid and the radius below the grid's spacing no grid
point may exist; the row is then the nearest one, outside the ball: check with `contains`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastadv._library import OpCard, Sample, extension, register
from fastadv.errors import InputError
from fastadv.ops._norm import ORDERS, check_norm, code
from fastadv.ops._rows import PerRow, check_like, column, limits, per_row, rows_array, with_arrays
from fastadv.ops._samples import SHAPES, batch

THRESHOLDS = 4096


def _value(level: Tensor, lo: float, hi: float, levels: int, dtype: torch.dtype) -> Tensor:
    return (lo + (hi - lo) * (level / levels)).to(dtype)


def _norm(shift: Tensor, norm: str) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(shift, ORDERS[norm], dim=1, keepdim=True)
    return result


def reference(
    x_adv: Tensor,
    x: Tensor,
    norm: str,
    radius: float,
    lo: float,
    hi: float,
    levels: int,
    radius_rows: Tensor | None = None,
) -> Tensor:
    rows, center = x_adv.double().flatten(1), x.double().flatten(1)
    reach = column(radius, radius_rows, rows)
    place = ((rows - lo) / (hi - lo) * levels).clamp(0, levels)

    def value(level: Tensor) -> Tensor:
        return _value(level, lo, hi, levels, x.dtype)

    if norm == "linf":
        nearest = (place + 0.5).floor().clamp(0, levels)
        candidates = torch.stack([nearest, nearest - 1, nearest + 1]).clamp(0, levels)
        points = value(candidates).double()
        misfit = torch.where((points - center).abs() <= reach, (candidates - place).abs(), float("inf"))
        return value(candidates.gather(0, misfit.argmin(0, keepdim=True)).squeeze(0)).reshape(x.shape)

    outward = rows >= center
    inner = torch.where(outward, place.floor(), place.ceil())
    outer = torch.where(outward, place.ceil(), place.floor())
    fraction = (place - inner).abs()

    def rounded(step: Tensor) -> Tensor:
        return value(torch.where(fraction >= 0.5 + step / (2 * THRESHOLDS - 2), outer, inner))

    low, high = (
        torch.zeros_like(reach.expand(len(rows), 1)),
        torch.full_like(reach.expand(len(rows), 1), THRESHOLDS),
    )
    while bool((low < high).any()):
        middle = ((low + high) / 2).floor()
        fits = _norm(rounded(middle).double() - center, norm) <= reach
        done = low >= high
        low, high = torch.where(done | fits, low, middle + 1), torch.where(done | ~fits, high, middle)
    return rounded(low).reshape(x.shape)


def fake(x_adv: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x_adv)


def cpu(
    out: Tensor,
    x_adv: Tensor,
    x: Tensor,
    norm: str,
    radius: float,
    lo: float,
    hi: float,
    levels: int,
    radius_rows: Tensor | None = None,
) -> None:
    with_arrays(
        extension.quantize_in_ball,
        out,
        (x_adv, x),
        code(norm),
        radius,
        rows_array(radius_rows),
        lo,
        hi,
        levels,
    )


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    assert torch.equal(actual, expected)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        x_adv, _, x = batch(shape, device, torch.float32, seed)
        grid = ((x * 255).round() / 255).to(dtype)
        for norm in ORDERS:
            for radius in (0.0, 0.05, 1.0, float("inf")):
                yield x_adv.to(dtype), grid, norm, radius, 0.0, 1.0, 255
        yield x_adv.to(dtype), x.to(dtype), "l2", 0.3, -1.0, 2.0, 16


register(
    OpCard(
        name="quantize_in_ball",
        schema="(Tensor x_adv, Tensor x, str norm, float radius, float lo, float hi, int levels, Tensor? radius_rows=None) -> Tensor",
        summary="x_adv rounded to a grid of the box without leaving the ball around x",
        reference=reference,
        fake=fake,
        samples=samples,
        compare=compare,
        cpu=cpu,
        no_gradient="rounding is flat almost everywhere",
        dtypes=(torch.float32,),
        bytes_moved=lambda x_adv, *rest: 3 * x_adv.numel() * x_adv.element_size(),
        flops=lambda x_adv, *rest: 130 * x_adv.numel(),
    )
)


def quantize_in_ball(
    x_adv: Tensor,
    x: Tensor,
    norm: str,
    radius: PerRow,
    box: tuple[float, float] = (0.0, 1.0),
    levels: int = 255,
) -> Tensor:
    """x_adv [B, ...] rounded to `levels` + 1 equally spaced values of the finite box (255: 8-bit images), inside the ball around x.

    x_adv lies in the ball. norm "linf", "l2", "l1" or "l0"; radius a number or [B], may be inf. Points of the ball on the grid exist
    whenever x is on it.
    Raises InputError on an unknown norm, an infinite box, levels < 1 or mismatched tensors.
    """
    check_like(x_adv, x=x)
    check_norm(norm)
    if levels < 1 or not abs(box[0]) + abs(box[1]) < float("inf"):
        raise InputError(f"expected levels >= 1 and a finite box, got levels={levels}, box={box}")
    radius, radius_rows = per_row("radius", radius, x)
    result: Tensor = torch.ops.fastadv.quantize_in_ball(
        x_adv, x, norm, radius, *limits(box), levels, radius_rows
    )
    return result
