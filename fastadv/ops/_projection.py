"""The exact projections on balls of L1 and L2 inside a box, eager, and what all projections share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.ops._rows import (
    ROUNDING,
    Box,
    PerRow,
    add_towards,
    check_like,
    clamp_box,
    column,
    limits,
    per_row,
)
from fastadv.ops._samples import project_samples, within
from fastadv.ops.registration.library import Sample, register


def on_l1(
    point: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None
) -> Tensor:
    """Return argmin ||z - point||_2 over ||z - x||_1 <= radius, lo <= z <= hi, for a float64 `point`."""
    # with w = |point - x| and c the room, |z - x| = clamp(w - t, 0, c); after 64 halvings of [0, max w] the
    # threshold t is right to the last bit, on the feasible side
    v = (point - x.double()).flatten(1)
    low, high = (lo - x.double()).flatten(1), (hi - x.double()).flatten(1)
    w, room = v.abs(), torch.where(v > 0, high, -low)
    limit = column(radius, radius_rows, v)

    def kept(t: Tensor) -> Tensor:
        return torch.minimum((w - t).clamp_min(0.0), room)

    below = torch.zeros_like(w[:, :1])
    outside = kept(below).sum(1, keepdim=True) > limit * ROUNDING
    above = w.amax(1, keepdim=True) if w.shape[1] else below
    for _ in range(64):
        middle = (below + above) / 2
        feasible = kept(middle).sum(1, keepdim=True) <= limit
        below, above = torch.where(feasible, below, middle), torch.where(feasible, middle, above)
    shift = kept(torch.where(outside, above, 0.0)) * v.sign()
    return clamp_box(add_towards(x, shift.reshape(x.shape)), lo, hi)


def on_l2(
    point: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None
) -> Tensor:
    """Return argmin ||z - point||_2 over ||z - x||_2 <= radius, lo <= z <= hi, for a float64 `point`."""
    # x + clamp(t * v, lo - x, hi - x), v = point - x, with one t in (0, 1] a row: from radius / ||v|| on,
    # solve for t as if no further coordinate met the box; each round adds a clamped coordinate or ends
    v = (point - x.double()).flatten(1)
    low, high = (lo - x.double()).flatten(1), (hi - x.double()).flatten(1)
    square = column(radius, radius_rows, v).square()
    inside = v.clamp(low, high).square().sum(1, keepdim=True) <= square * ROUNDING
    t = torch.where(inside, 1.0, (square / v.square().sum(1, keepdim=True)).sqrt())
    while True:
        free = (t * v).clamp(low, high) == t * v
        clamped = torch.where(free, 0.0, v.clamp(low, high).square()).sum(1, keepdim=True)
        grown = (
            (square - clamped).clamp_min(0.0) / torch.where(free, v.square(), 0.0).sum(1, keepdim=True)
        ).sqrt()
        rises = ~inside & (grown > t * (1 + 1e-15)) & grown.isfinite()
        if not bool(rises.any()):
            break
        t = torch.where(rises, grown, t)
    shift = (t * v).clamp(low, high).reshape(x.shape)
    return clamp_box(add_towards(x, shift), lo, hi)


def register_projection(
    name: str, summary: str, reference: Callable[..., Tensor], flops: int, **others: Any
) -> None:
    """Register a projection that takes `flops` operations an element; `others` are fields of its card."""
    register(
        name=name,
        schema="(Tensor x_adv, Tensor x, float radius, float lo, float hi, Tensor? radius_rows=None)"
        " -> Tensor",
        summary=summary,
        reference=reference,
        samples=project_samples,
        no_gradient="attacks project points, not graphs",
        bytes_moved=lambda x_adv, *rest: 3 * x_adv.nbytes,
        flops=lambda x_adv, *rest: flops * x_adv.numel(),
        **{"compare": within(4, 3e-7)} | others,
    )


def arguments(x_adv: Tensor, x: Tensor, radius: PerRow, box: Box) -> Sample:
    """Check the public arguments and return them in the schema's order."""
    check_like(x_adv, x=x)
    radius, radius_rows = per_row("radius", radius, x)
    return x_adv, x, radius, *limits(box, x.dtype), radius_rows
