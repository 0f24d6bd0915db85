"""random_start: a point drawn uniformly from the norm ball around x, clamped to the box.

The draw of a row depends on (seed, id, draw) alone. Uniform in the ball means:

Linf  each coordinate is uniform in [-r, r]
L2    a normal direction, at the distance r * U^(1/D)
L1    exponential sizes divided by the sum of these and one more, with random signs
L0    `r` coordinates chosen without replacement, each uniform in the box: those with the smallest random
      words, the lower index first among equals

Clamping moves a point towards x, which lies in the box, so the result stays in the ball.
"""

from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor

from fastadv._checks import check_choice
from fastadv.errors import InputError
from fastadv.ops import philox
from fastadv.ops._rows import (
    ORDERS,
    Box,
    PerRow,
    add_towards,
    check_column,
    check_like,
    clamp_box,
    column,
    limits,
    per_row,
)
from fastadv.ops._samples import SHAPES, assert_ulps, batch, per_sample
from fastadv.ops.registration.library import Sample, op, register


def _shift(norm: str, limit: Tensor, ids: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """Draw float64 shifts [B, D] uniformly from the ball of `limit`."""
    bits = philox.words(ids, count, seed, draw)
    if norm == "linf":
        return limit * (2.0 * philox.to_uniform(bits) - 1.0)
    if norm == "l2":
        direction = philox.normals(ids, count, seed, draw)
        # normals use whole pairs of words; the distance takes the first word after them
        word = philox.words(ids, count + count % 2 + 1, seed, draw)[:, -1:]
        level = philox.to_uniform(word) ** (1.0 / count)
        length = direction.norm(dim=1, keepdim=True)
        return limit * level * direction / torch.where(length > 0, length, 1.0)
    size = -torch.log1p(-philox.to_uniform(philox.words(ids, count + 1, seed, draw)))
    total = size.sum(1, keepdim=True)
    sign = 1.0 - 2.0 * (bits & 1).double()
    return limit * sign * size[:, :count] / torch.where(total > 0, total, 1.0)


def reference(
    x: Tensor, ids: Tensor, norm: str, radius: float, lo: float, hi: float, seed: int, draw: int,
    radius_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    rows = x.flatten(1)
    count = rows.shape[1]
    limit = column(radius, radius_rows, rows)
    if norm == "l0":
        words = philox.words(ids, 2 * count, seed, draw)
        rank = words[:, :count].argsort(dim=1, stable=True).argsort(dim=1)
        value = (lo + (hi - lo) * philox.to_uniform(words[:, count:])).to(x.dtype)
        start = torch.where(rank < limit.floor(), value, rows)
    else:
        start = add_towards(rows, _shift(norm, limit, ids, count, seed, draw))
    return clamp_box(start, lo, hi).reshape(x.shape)


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    assert_ulps(actual, expected, 0 if args[2] in ("linf", "l0") else 2, floor=1e-7)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        _, _, x = batch(shape, device, dtype, seed)
        ids = torch.arange(shape[0], device=device) * (2**33 + 1)
        radii = per_sample(shape, device, seed).nan_to_num(posinf=3.0)
        for norm in ORDERS:
            for radius in (0.0, 0.3, 2.0):
                yield x, ids, norm, radius, 0.0, 1.0, seed, 1
            yield x, ids, norm, 0.0, 0.0, 1.0, 2**40, 0, radii


register(
    name="random_start",
    schema="(Tensor x, Tensor ids, str norm, float radius, float lo, float hi, int seed, int draw, "
    "Tensor? radius_rows=None) -> Tensor",
    summary="x + uniform draw from the norm ball, clamped to the box; a function of (seed, id, draw)",
    reference=reference,
    samples=samples,
    compare=compare,
    ordered=True,
    no_gradient="a starting point is not differentiated",
    bytes_moved=lambda x, *rest: 2 * x.nbytes,
    flops=lambda x, *rest: 40 * x.numel(),
)


def random_start(
    x: Tensor, ids: Tensor, norm: str, radius: PerRow, box: Box = (0.0, 1.0), seed: int = 0, draw: int = 0
) -> Tensor:
    """Draw a point uniformly from the ball around x [B, ...], and clamp it to the box.

    Equal (seed, id, draw) give equal shifts in any batch: `ids` int64 [B] are stable sample numbers. On a GPU
    the values of a radius [B] are not read: `Threat.random_start` checks them.
    """
    check_like(x)
    check_choice("norm", norm, ORDERS)
    check_column("ids", ids, x, torch.int64)
    philox.check_stream(seed, draw)
    radius, radius_rows = per_row("radius", radius, x)
    if radius_rows is None:
        finite = radius < inf
    else:
        on_host = radius_rows.device.type == "cpu" and not torch.compiler.is_compiling()
        finite = not on_host or bool(radius_rows.isfinite().all())
    if not finite:
        raise InputError(
            "radius: expected a finite one, got inf; an infinite ball has no uniform draw, start at x instead"
        )
    lo, hi = limits(box)
    if norm == "l0" and hi - lo == inf:
        raise InputError(f"box: expected a finite one for an l0 start, got {box}")
    return op("random_start")(x, ids, norm, radius, lo, hi, seed, draw, radius_rows)
