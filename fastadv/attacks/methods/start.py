"""Where attacks begin: at an adversarial point, and from there the boundary; and how near restarts do."""

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks.core import Search
from fastadv.attacks.core.record import Over
from fastadv.attacks.methods.bisection import Interval, halve, middle
from fastadv.attacks.methods.geometry import like, unit
from fastadv.errors import InputError
from fastadv.threat import Threat

# (search, round) -> candidates [n, C, ...]
Noise = Callable[[Search, int], Tensor]

# queries that look for a start at most, as in the code of HopSkipJump's authors
LOOKS = 10_000
# places of blends on the way from x to the noise
BLENDS = (1.0, 0.5)
# within how many widths of the box restarts begin, where no success is nearer
RESTART = {"linf": 0.3, "l2": 1.0, "l1": 5.0, "l0": 10.0}


class Starts(Interval):
    """Adversarial `points` [n, ...], and what their search has left."""

    points: Tensor
    left: Tensor  # int64 [n], the queries to each sample
    far: Tensor  # the end of the way to the boundary
    place: Tensor  # int64 [n], of each sample among those that look for a start


def check_starts(starts: Any, x: Any, threat: Threat) -> None:
    """Raise InputError unless `starts` are floating like x and in the box, or None."""
    if starts is None:
        return
    wanted = "starts: expected None or a floating tensor like x, on its device"
    if not isinstance(starts, Tensor) or not isinstance(x, Tensor) or not starts.is_floating_point():
        got = starts.dtype if isinstance(starts, Tensor) else type(starts).__name__
        raise InputError(f"{wanted}, got {got}")
    if starts.shape != x.shape or starts.device != x.device:
        raise InputError(
            f"{wanted}: {tuple(x.shape)} on {x.device}, got {tuple(starts.shape)} on {starts.device}"
        )
    low, high = threat.box
    if not bool(((starts >= low) & (starts <= high) & starts.isfinite()).all()):
        raise InputError(
            f"starts: expected finite values in the box [{low:g}, {high:g}], got others; clamp them to it"
        )


def blends(search: Search, draw: int) -> Tensor:
    """Return [n, C, ...], blends of x with uniform noise of every grain: fine noise looks alike to models."""
    low, high = search.threat.box
    x = search.x.flatten(1).unsqueeze(1)
    size = x.shape[2]
    cells = [math.ceil(size / 2**grain) for grain in range(_grains(size))]
    values = rng.uniform(sum(cells), rng.derive(search.seed, "start", search.restart), search.ids, draw)
    parts = torch.split(values.to(x.dtype), cells, 1)
    noise = torch.stack([part.repeat_interleave(2**n, 1)[:, :size] for n, part in enumerate(parts)], 1)
    noise = low + (high - low) * noise
    mixed = torch.stack([x.lerp(noise, share) for share in BLENDS], 2)
    return mixed.clamp_(low, high).view(len(x), -1, *search.x.shape[1:])


def _grains(size: int) -> int:
    return 1 + math.ceil(math.log2(size))


def box_noise(search: Search, draw: int) -> Tensor:
    """Return [n, 1, ...], uniform noise of the box."""
    low, high = search.threat.box
    seed = rng.derive(search.seed, "start", search.restart)
    noise = rng.uniform(search.x[0].numel(), seed, search.ids, draw).to(search.x.dtype)
    return (low + (high - low) * noise).view_as(search.x).unsqueeze(1)


def find_start(search: Search[Starts], starts: Tensor | None, queries: int, noise: Noise = blends) -> int:
    """Set `rows.points` to adversarial points, `rows.left` to queries; return those at a first start."""
    # the caller's `starts`, or the nearest of a round of `noise`; a sample without one has another, until its
    # queries or 10,000 are spent
    rows = search.rows
    if starts is not None:
        rows.left = torch.full_like(search.ids, queries - 1)
        look = search.decide(search.per_sample(starts).to(search.x.dtype))
        if not bool(look.adversarial.all()):
            raise InputError(
                "starts: expected points that are adversarial, with x itself where the mask holds it, "
                f"got others for the samples with ids {search.ids[~look.adversarial].tolist()}"
            )
        rows.points = look.x_adv
        return queries - 1
    rows.points, rows.left = search.x.clone(), torch.zeros_like(search.ids)
    started = torch.zeros_like(search.ids, dtype=torch.bool)
    cost = min(queries, len(BLENDS) * _grains(search.x[0].numel()) if noise is blends else 1)

    def look_for(part: Search[Starts], _: Tensor) -> None:
        look = part.decide(noise(part, draw)[:, :queries])
        nearest = part.distance(look.x_adv).masked_fill(~look.adversarial, math.inf).argmin(1)
        place = part.rows.place
        new = look.adversarial.any(1) & ~started[place]
        rows.points[place[new]], rows.left[place[new]] = look.x_adv[new, nearest[new]], left
        started[place[new]] = True

    # samples that have a start wait for the others
    others = search.beside()
    others.rows.place = torch.arange(len(started), device=started.device)
    try:
        for draw in count():
            left = queries - (draw + 1) * cost
            if queries - left > min(queries, LOOKS):
                break
            others.in_parts(2 * cost, look_for)
            others.leave(started[others.rows.place])
        others.close()
    except Over:
        pass
    search.leave(~started)
    return queries - cost


def spend(search: Search[Starts], cost: int, left: int) -> int:
    """Return `left` less the cost in queries; samples that cannot pay it leave the search."""
    search.leave(search.rows.left < cost)
    search.rows.left = search.rows.left - cost
    return left - cost


def to_boundary(search: Search[Starts], halvings: int, left: int, straight: bool = False) -> int:
    """Move the adversarial `rows.points` onto the boundary, by bisection; return what is `left`."""
    # blends in Linf are clipped to smaller balls, unless the way is to be `straight`
    rows = search.rows
    left = spend(search, halvings, left)
    rows.far = rows.points
    rows.low, rows.high = search.full(0.0), search.full(1.0)
    for _ in range(halvings):
        look = search.decide(_towards(search, rows.far, middle(rows), straight))
        halve(rows, look.adversarial)
        rows.points = torch.where(like(look.adversarial, look.x_adv), look.x_adv, rows.points)
    return left


def away(search: Search[Starts]) -> Tensor:
    """Return [n, ...], the unit vectors from x to `rows.points`."""
    return unit(search.rows.points - search.x)


def _towards(search: Search[Starts], far: Tensor, share: Tensor, straight: bool) -> Tensor:
    """Return the nearest points to `far` [n, ...] at shares [n] of its distance to x, in L2 or Linf."""
    away = far - search.x
    if straight or search.threat.order == 2:
        return search.x + like(share, away) * away
    radius = like(share * away.flatten(1).abs().amax(1), away)
    return search.x + away.clamp(-radius, radius)
