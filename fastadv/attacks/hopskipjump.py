"""HopSkipJump: steps along the normal of the boundary, estimated from decisions (Chen et al. 2020)."""

import math
from collections.abc import Iterator
from itertools import count
from sys import maxsize
from typing import Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.methods.bisection import halve, middle
from fastadv.attacks.methods.geometry import like, norm, orthogonal_, unit_, width
from fastadv.attacks.methods.hyperplane import steepest
from fastadv.attacks.methods.start import Starts, away, check_starts, find_start, spend, to_boundary
from fastadv.threat import Threat

# steps where neither they nor queries are given, as in the authors' code
STEPS = 40
# how far probes lie from their center, as a share of its distance to x; those of `_tilt` lie farther
REACH, TILT = 0.02, 4.0
# bisections to the boundary and of an angle, and sizes of a step, each half of the one before
HALVINGS, TILTS, SIZES = 12, 6, 4
# values of the probes of one sample that pass the model at once
BLOCK = 1 << 17


class _Rows(Starts):
    """The normal [n, ...], how far the center of the probes lies off the boundary, and their sums."""

    normal: Tensor
    shift: Tensor
    gradient: Tensor
    answers: Tensor
    directions: Tensor
    products: Tensor


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Chen et al. 2020", tolerance=1.25)
@core.tested(
    quick={"queries": 100, "directions": 10, "restarts": 3},
    oracle={"queries": 3000, "directions": 100, "restarts": 1},
)
@core.takes_common(norms=("l2", "linf"), queries=1, steps=1, directions=1)
def hopskipjump(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: int | None = None,
    steps: int | None = None,
    directions: int = 100,
    starts: Tensor | None = None,
    restarts: int = 1,
    seed: int = 0,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the success nearest to x, by steps along the boundary that need decisions only.

    Step t asks on which side of the boundary `directions` * sqrt(t) random probes lie, close around a point
    on it. The mean of their directions, each times its answer minus the mean answer, estimates the normal.
    The point moves along it, by the largest of a geometric progression of steps that ends at an adversarial
    point, and by bisection towards x back to the boundary.

    Args:
        queries: the most points of each restart that pass the model for each image, an integer >= 1.
        steps: the most steps, an integer >= 1. Without steps and queries it is 40, as in the authors' code,
            which come to 18,000 queries.
        directions: probes of the first step, an integer >= 1; 100 in the paper.

    Example:
        >>> out = fa.attacks.hopskipjump(model, x, y, fa.L2(float("inf")), queries=200)
        >>> bool(out.success.all()), bool(out.distance.isfinite().all())
        (True, True)

    Source:
        Chen et al. 2020, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack" (arXiv 1904.02144),
        algorithms 1 and 2.
    """
    if queries is None:
        queries, steps = maxsize, STEPS if steps is None else steps
    check_starts("hopskipjump", starts, x, threat)
    rule = _rule(starts, queries, steps, directions)
    return core.run(
        model, x, y, threat, rule, rows=_Rows, minimum=True, restarts=restarts, seed=seed, **common
    )


def _rule(starts: Tensor | None, queries: int, steps: int | None, directions: int) -> core.Rule[_Rows]:
    """Return steps along the boundary by an estimate of its normal that each step betters.

    Known is in L2 the direction away from x, and in Linf the last estimate. Probes are orthogonal to it, and
    bisection finds by which angle they turn it. Their center moves along it until the answers balance.
    """

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows
        left = find_start(search, starts, queries)
        left = to_boundary(search, min(HALVINGS, left), left)
        rows.normal, rows.shift = away(search), search.full(0.0)
        draws = count()
        for step in count(1) if steps is None else range(1, steps + 1):
            probes = min(math.ceil(directions * math.sqrt(step)), left - TILTS - SIZES - HALVINGS)
            if probes < 1:
                return
            left = spend(search, probes + TILTS + SIZES, left)
            if search.threat.order == 2:
                rows.normal = away(search)
            _probe(search, probes, draws)
            _tilt(search)
            _move(search)
            left = to_boundary(search, HALVINGS, left)

    return rule


def _probe(search: core.Search[_Rows], probes: int, draws: Iterator[int]) -> None:
    """Set `rows.gradient` to the unit direction [n, ...], orthogonal to `rows.normal`, that probes find."""
    rows, size = search.rows, search.x[0].numel()
    seed = rng.derive(search.seed, "hopskipjump", search.restart)
    # of the answers 1 and -1, of the directions, and of their products
    rows.answers = search.full(0.0)
    rows.directions = rows.products = torch.zeros_like(rows.normal)
    most = max(BLOCK // size, 16)
    for first in range(0, probes, most):
        number = min(most, probes - first)
        draw = rng.normal(number * size, seed, search.ids, next(draws)).to(rows.normal.dtype)
        directions = orthogonal_(draw.view(len(draw), number, *search.x.shape[1:]), rows.normal)
        directions.mul_(like(_deviation(search), directions)).add_(_center(search).unsqueeze(1))
        look = search.decide(directions.clamp_(*search.threat.box), judge=False)
        answers = look.adversarial.to(directions.dtype) * 2 - 1
        # what box and mask have left of them
        directions = look.x_adv.sub_(_center(search).unsqueeze(1))
        rows.answers = rows.answers + answers.sum(1)
        rows.directions = rows.directions + directions.sum(1)
        rows.products = rows.products + torch.einsum("nc,nc...->n...", answers, directions)
    mean = rows.answers / probes
    rows.shift = rows.shift - mean
    # answers that are all the same are worth a little nevertheless
    baseline = torch.where(mean.abs() < 1, mean, 0.0)
    gradient = rows.products - like(baseline, rows.products) * rows.directions
    rows.gradient = unit_(orthogonal_(gradient.unsqueeze(1), rows.normal).squeeze(1))


def _deviation(search: core.Search[_Rows]) -> Tensor:
    """Return [n], the standard deviation of a coordinate of the probes, which the search copy can resolve."""
    distance = norm(search.rows.points - search.x, 2)
    least = torch.finfo(search.classifier.search_dtype or search.x.dtype).eps * width(search.threat)
    deviation: Tensor = (REACH / math.sqrt(search.x[0].numel()) * distance).clamp_min(least)
    return deviation


def _center(search: core.Search[_Rows]) -> Tensor:
    """Return [n, ...], the center of the probes, `rows.shift` of their deviations from the boundary."""
    rows = search.rows
    center: Tensor = rows.points + like(rows.shift * _deviation(search), rows.points) * rows.normal
    return center


def _tilt(search: core.Search[_Rows]) -> None:
    """Turn `rows.normal` towards `rows.gradient`, so that it is the normal in the plane of the two."""
    rows = search.rows
    rows.low = search.full(0.0)
    rows.high = torch.full_like(rows.low, math.pi / 2)
    for _ in range(TILTS):
        angle = like(middle(rows), rows.normal)
        length = TILT * math.sqrt(search.x[0].numel()) * _deviation(search)
        tangent = angle.cos() * rows.gradient - angle.sin() * rows.normal
        points = (rows.points + like(length, tangent) * tangent).clamp_(*search.threat.box)
        # too steep a tangent leaves the adversarial side
        halve(rows, ~search.decide(points, judge=False).adversarial)
    angle = like(middle(rows), rows.normal)
    rows.normal = angle.cos() * rows.normal + angle.sin() * rows.gradient


def _move(search: core.Search[_Rows]) -> None:
    """Move `rows.points` by the largest step of a geometric progression that ends adversarial, if any."""
    rows, x, order = search.rows, search.x, search.threat.order
    size = torch.linalg.vector_norm(rows.normal.flatten(1), dim=1)
    goal = x + like(search.distance(rows.points), x) * steepest(rows.normal, size, order)
    shares = 0.5 ** torch.arange(SIZES, device=x.device, dtype=x.dtype)
    steps = torch.einsum("c,n...->nc...", shares, goal - rows.points)
    look = search.decide((rows.points.unsqueeze(1) + steps).clamp_(*search.threat.box))
    first = look.adversarial.int().argmax(1)
    moved = look.seen[torch.arange(len(first), device=x.device), first]
    rows.points = torch.where(like(look.adversarial.any(1), moved), moved, rows.points)
