"""Where a search for the minimum begins: at x, at a point of the caller near the boundary, or at random."""

import math

import torch
from torch import Tensor

from fastadv import ops
from fastadv.attacks.core import Search
from fastadv.attacks.methods.geometry import farthest, like, width
from fastadv.ops._rows import NO_BOX

HALVINGS = 10
# within how many widths of the box restarts begin, where no success is nearer
RESTART = {"linf": 0.3, "l2": 1.0, "l1": 5.0, "l0": 10.0}


def begin(search: Search, starts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the first points [n, ...], and bool [n], which of them come from `starts`, [B, ...]."""
    # Where the caller's points meet the boundary, and at x where they are not adversarial; on restarts at a
    # random point within half the distance of the nearest success.
    given = torch.zeros_like(search.ids, dtype=torch.bool)
    if search.restart:
        return _anywhere(search), given
    if starts is None:
        return search.x.clone(), given
    far = search.problem.masked(search.per_sample(starts).to(search.x.dtype))
    look = search.decide(far)
    given, points = look.adversarial, look.seen
    low, high = search.full(0.0), search.full(1.0)
    for _ in range(HALVINGS):
        share = (low + high) / 2
        look = search.decide(_between(search, far, share))
        low, high = torch.where(look.adversarial, low, share), torch.where(look.adversarial, share, high)
        points = torch.where(like(look.adversarial, points), look.seen, points)
    return torch.where(like(given, points), points, search.x), given


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
