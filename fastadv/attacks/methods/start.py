"""Where attacks begin: at an adversarial point, and from there the boundary; for a minimum, at or near x."""

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor

from fastadv import ops, rng
from fastadv.attacks.core import Search
from fastadv.attacks.core.record import Over
from fastadv.attacks.methods.bisection import Interval, halve, middle
from fastadv.attacks.methods.geometry import farthest, like, unit, width
from fastadv.errors import InputError
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat
from fastadv.threat.checks import check_finite_box

# (search, round) -> candidates [n, C, ...]
Noise = Callable[[Search, int], Tensor]

# queries that look for a start at most, as in the code of HopSkipJump's authors
LOOKS = 10_000
# places of blends on the way from x to the noise
BLENDS = (1.0, 0.5)


class Starts(Interval):
    """Adversarial `points` [n, ...], and what their search has left."""

    points: Tensor
    left: Tensor  # int64 [n], the queries to each sample
    far: Tensor  # the end of the way to the boundary
    place: Tensor  # int64 [n], of each sample among those that look for a start


def check_starts(name: str, starts: Any, x: Any, threat: Threat) -> None:
    """Raise InputError unless `starts` is floating like x and inside the box, or None and the box finite."""
    if starts is None:
        check_finite_box(name, threat)
    check_points_of_box("starts", starts, x, threat)


def check_points_of_box(name: str, points: Any, x: Any, threat: Threat) -> None:
    """Raise InputError, naming the argument, unless `points` are floating like x and in the box, or None."""
    if points is None:
        return
    wanted = f"{name}: expected None or a floating tensor like x, on its device"
    if not isinstance(points, Tensor) or not isinstance(x, Tensor) or not points.is_floating_point():
        got = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise InputError(f"{wanted}, got {got}")
    if points.shape != x.shape or points.device != x.device:
        raise InputError(
            f"{wanted}: {tuple(x.shape)} on {x.device}, got {tuple(points.shape)} on {points.device}"
        )
    low, high = threat.box
    if not bool(((points >= low) & (points <= high) & points.isfinite()).all()):
        raise InputError(
            f"{name}: expected finite values in the box [{low:g}, {high:g}], got others; clamp them to it"
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
        rows.points = look.seen
        return queries - 1
    rows.points, rows.left = search.x.clone(), torch.zeros_like(search.ids)
    started = torch.zeros_like(search.ids, dtype=torch.bool)
    cost = min(queries, len(BLENDS) * _grains(search.x[0].numel()) if noise is blends else 1)

    def look_for(part: Search[Starts], _: Tensor) -> None:
        look = part.decide(noise(part, draw)[:, :queries])
        nearest = part.distance(look.seen).masked_fill(~look.adversarial, math.inf).argmin(1)
        place = part.rows.place
        new = look.adversarial.any(1) & ~started[place]
        rows.points[place[new]], rows.left[place[new]] = look.seen[new, nearest[new]], left
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
        rows.points = torch.where(like(look.adversarial, look.seen), look.seen, rows.points)
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


HALVINGS = 10
# within how many widths of the box restarts begin, where no success is nearer
RESTART = {"linf": 0.3, "l2": 1.0, "l1": 5.0, "l0": 10.0}


def begin(search: Search, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the first points [n, ...], and bool [n], which of them come from `starts`, [B, ...]."""
    # Where the caller's points meet the boundary, and at x where they are not adversarial; on restarts at a
    # random point within half the distance of the nearest success.
    started = torch.zeros_like(search.ids, dtype=torch.bool)
    if search.restart:
        return _anywhere(search), started
    if starts is None:
        return search.x.clone(), started
    far = search.problem.masked(search.per_sample(starts).to(search.x.dtype))
    look = search.decide(far)
    started, points = look.adversarial, look.seen
    low, high = search.full(0.0), search.full(1.0)
    for _ in range(HALVINGS):
        share = (low + high) / 2
        look = search.decide(_between(search, far, share))
        low, high = torch.where(look.adversarial, low, share), torch.where(look.adversarial, share, high)
        points = torch.where(like(look.adversarial, points), look.seen, points)
    return torch.where(like(started, points), points, search.x), started


def _between(search: Search, far: Tensor, share: Tensor) -> Tensor:
    """Return the points nearest to `far` at that share [n] of the longest way (Pintor et al. 2021)."""
    away, kind = far - search.x, search.threat.norm
    if kind == "l0":
        count = (share * away[0].numel()).floor().clamp_min(1)
        return ops.project_l0(far, search.x, count, NO_BOX)
    share = like(share, away).to(away.dtype)
    if kind == "l2":
        away = share * away
    else:
        edge = math.inf not in map(abs, search.threat.box)
        room = width(search.threat) if edge else like(ops.largest(away), away)
        if kind == "linf":
            away = away.clamp(-share * room, share * room)
        else:
            away = (away.abs() - (1 - share) * room).clamp_min(0).copysign(away)
    return (search.x + away).clamp(*search.threat.box)


def _anywhere(search: Search) -> Tensor:
    """Return a random point [n, ...] for this restart, by seed and sample number."""
    best, near = search.best, RESTART[search.threat.norm] * width(search.threat)
    radius = torch.where(best.success, best.distance, near).minimum(farthest(search).to(best.rank)) / 2
    if search.threat.norm == "l0":
        radius = radius.ceil()
    threat = search.threat.resized(radius)
    points = threat.random_start(search.x, search.seed, search.ids, draw=search.restart)
    return search.classifier.layout(search.problem.masked(points))
