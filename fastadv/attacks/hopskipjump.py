"""HopSkipJump: steps along the normal of the boundary, estimated from decisions (Chen et al. 2020)."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import count
from sys import maxsize
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.core.record import Over
from fastadv.attacks.methods import start
from fastadv.attacks.methods.bisection import halve, middle
from fastadv.attacks.methods.geometry import like, norm, orthogonal_, unit, unit_, width
from fastadv.attacks.methods.hyperplane import steepest
from fastadv.threat import Threat
from fastadv.threat.checks import check_finite_box

# steps where neither they nor queries are given, as in the authors' code
STEPS = 40
# bisections of the way from the first noise to x
BLENDS = 10
# probes of a step at most
MOST = 10_000
# the distance of the first probes from the boundary, in widths of the box
FIRST_DELTA = 0.1
# values of the probes of one sample that pass the model at once
BLOCK = 1 << 17


class _Hops(start.Starts):
    """What the steps know of each sample."""

    reach: Tensor  # the distance before the last bisection
    update: Tensor  # [n, ...], along which a step of that `size` goes
    size: Tensor
    answers: Tensor  # of the probes, summed
    directions: Tensor  # of the probes, summed
    products: Tensor  # of both, summed
    done: Tensor  # the step, or the queries, have ended


@core.registered(knowledge="decision", kind="minimum", random=True, paper="Chen et al. 2020", tolerance=1.25)
@core.tested(
    quick={"queries": 100, "directions": 10, "restarts": 3},
    oracle={"queries": 3000, "directions": 100, "restarts": 1},
)
@core.takes_common(norms=("l2", "linf"), queries=1, steps=1, directions=1)
def hopskipjump(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int | None = None,
    steps: int | None = None, variant: core.Variant = "fastadv", directions: int = 100,
    starts: Tensor | None = None, restarts: int = 1, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the success nearest to x, by steps along the boundary that need decisions only.

    Step t asks on which side of the boundary `directions` * sqrt(t) random probes lie, close around a point
    on it. The mean of their directions, each times its answer minus the mean answer, estimates the normal.
    The point moves along it, by the largest of a geometric progression of steps that ends at an adversarial
    point, and by bisection towards x back to the boundary.

    Args:
        threat: L2 or Linf; the radius is inf or the largest distance of interest, a number or [B].
        queries: the most points of each restart that pass the model for each image, an integer >= 1.
        steps: the most steps, an integer >= 1. Without steps and queries it is 40, as in the authors' code,
            which come to 18,000 queries.
        directions: probes of the first step, an integer >= 1; 100 in the paper.
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        starts: floating like x, adversarial points inside the box. None looks for them among blends of x and
            uniform noise, which needs a finite box. A sample without such a point counts as held.
        others: as in `pgd`, and so are Returns and Raises.

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
    if starts is None:
        check_finite_box("hopskipjump", threat)
    start.check_starts(starts, x, threat)
    how: dict[str, Any] = {"minimum": True, "restarts": restarts, "seed": seed, **common}
    if variant == "published":
        return core.run(model, x, y, threat, _rule(starts, queries, steps, directions), rows=_Hops, **how)
    rule = _ours(starts, queries, steps, directions)
    return core.run(model, x, y, threat, rule, rows=_OurRows, **how)


def _rule(starts: Tensor | None, queries: int, steps: int | None, directions: int) -> core.Rule[_Hops]:
    """Return the steps of Chen et al. 2020, algorithm 2, with numbers of the authors' code."""

    def rule(search: core.Search[_Hops]) -> None:
        rows, halvings = search.rows, _bisections(search)
        left = start.find_start(search, starts, queries, start.box_noise)
        if starts is None:
            left = start.to_boundary(search, min(BLENDS, left), left, straight=True)
        rows.reach = search.full(FIRST_DELTA * width(search.threat) * search.x[0].numel())
        left = start.to_boundary(search, min(halvings, left), left)
        for step in count(1) if steps is None else range(1, steps + 1):
            probes = min(int(directions * math.sqrt(step)), MOST)
            search.leave(rows.left < probes + 1 + halvings)
            search.drop_leaving(search.x)
            rows.left = rows.left - probes - 1
            _estimate(search, probes, step)
            rows.size = search.distance(rows.points) / math.sqrt(step)
            _progress(search, halvings)
            rows.reach = search.distance(rows.points)
            start.to_boundary(search, halvings, queries)

    return rule


def _bisections(search: core.Search) -> int:
    """Return how many bisections come within theta of the boundary: D^(-3/2) of the way, D^-2 in Linf."""
    power = 1.5 if search.threat.order == 2 else 2.0
    finest = 1 - math.log2(torch.finfo(search.x.dtype).eps)
    return math.ceil(min(power * math.log2(search.x[0].numel()), finest))


def _estimate(search: core.Search[_Hops], probes: int, step: int) -> None:
    """Set `rows.update` to the estimated gradient at length 1, or to its signs in Linf (equation 16)."""
    rows, size = search.rows, search.x[0].numel()
    seed = rng.derive(search.seed, "hopskipjump", search.restart, step)
    # the search copy could not tell closer probes apart
    least = torch.finfo(search.classifier.search_dtype or search.x.dtype).eps * width(search.threat)
    delta = (rows.reach / size).clamp_min(least * math.sqrt(size))
    rows.answers = torch.zeros_like(delta)
    rows.directions = rows.products = torch.zeros_like(rows.points)
    rows.size = delta
    block = max(BLOCK // size, 16)

    def ask(part: core.Search[_Hops], _: Tensor, number: int, draw: int) -> None:
        rows, x = part.rows, part.x
        kind = rng.normal if part.threat.order == 2 else rng.uniform
        draws = kind(number * size, seed, part.ids, draw).to(x.dtype)
        draws = draws if part.threat.order == 2 else 2 * draws - 1
        ways = unit(draws.view(-1, *x.shape[1:])).view(len(draws), number, *x.shape[1:])
        points = rows.points.unsqueeze(1) + like(rows.size, ways) * ways
        look = part.decide(points.clamp_(*part.threat.box), judge=False)
        answers = look.adversarial.to(ways.dtype) * 2 - 1
        # the directions that box and mask have left
        ways = (look.x_adv - rows.points.unsqueeze(1)) / like(rows.size, ways)
        rows.answers = rows.answers + answers.sum(1)
        rows.directions = rows.directions + ways.sum(1)
        rows.products = rows.products + torch.einsum("nc,nc...->n...", answers, ways)

    for draw, first in enumerate(range(0, probes, block)):
        number = min(block, probes - first)
        search.in_parts(4 * number, partial(ask, number=number, draw=draw))
    mean = rows.answers / probes
    mean = torch.where(mean.abs() < 1, mean, 0.0)
    gradient = unit(rows.products - like(mean, rows.products) * rows.directions)
    rows.update = gradient if search.threat.order == 2 else gradient.sign()


def _progress(search: core.Search[_Hops], halvings: int) -> None:
    """Move `rows.points` along `rows.update` by `rows.size`, halved until the point is adversarial."""
    rows = search.rows
    others = search.beside()
    here = others.rows
    here.points, here.update, here.size, here.left = rows.points, rows.update, rows.size, rows.left
    here.done = torch.zeros_like(rows.left, dtype=torch.bool)
    here.place = torch.arange(len(rows.left), device=rows.left.device)
    moved, left = rows.points.clone(), rows.left.clone()
    try:
        while True:
            steps = like(here.size, here.points) * here.update
            look = others.decide((here.points + steps).clamp_(*search.threat.box))
            new = look.adversarial & ~here.done
            moved[here.place[new]] = look.x_adv[new]
            here.done = here.done | new | (here.left <= halvings)
            here.left = here.left - (~here.done).to(here.left.dtype)
            left[here.place] = here.left
            here.size = here.size / 2
            others.leave(here.done)
    except Over:
        pass
    rows.points, rows.left = moved, left


# The fastadv variant (docs/departures.md).

# the distance of probes from their center, as a share of its distance to x; those of `_tilt` lie farther
REACH, TILT = 0.02, 4.0
# bisections to the boundary and of an angle, and sizes of a step, each half of the one before
HALVINGS, TILTS, SIZES = 12, 6, 4


class _OurRows(start.Starts):
    """The normal [n, ...], how far the center of the probes lies off the boundary, and their sums."""

    normal: Tensor
    shift: Tensor
    gradient: Tensor
    answers: Tensor
    directions: Tensor
    products: Tensor


def _ours(starts: Tensor | None, queries: int, steps: int | None, directions: int) -> core.Rule[_OurRows]:
    """Return steps along the boundary by an estimate of its normal that each step betters."""
    # Probes are orthogonal to the direction away from x, in Linf to the last estimate; bisection finds the
    # angle by which they turn it. Their center moves along it until the answers balance.

    def rule(search: core.Search[_OurRows]) -> None:
        rows = search.rows
        left = start.find_start(search, starts, queries)
        left = start.to_boundary(search, min(HALVINGS, left), left)
        rows.normal, rows.shift = start.away(search), search.full(0.0)
        draws = count()
        for step in count(1) if steps is None else range(1, steps + 1):
            probes = min(math.ceil(directions * math.sqrt(step)), left - TILTS - SIZES - HALVINGS)
            if probes < 1:
                return
            left = start.spend(search, probes + TILTS + SIZES, left)
            if search.threat.order == 2:
                rows.normal = start.away(search)
            _probe(search, probes, draws)
            _tilt(search)
            _move(search)
            left = start.to_boundary(search, HALVINGS, left)

    return rule


def _probe(search: core.Search[_OurRows], probes: int, draws: Iterator[int]) -> None:
    """Set `rows.gradient` to the unit direction [n, ...], orthogonal to `rows.normal`, that probes find."""
    rows, size = search.rows, search.x[0].numel()
    seed = rng.derive(search.seed, "hopskipjump", search.restart)
    # sums of the answers 1 and -1, of the directions, and of their products
    rows.answers = search.full(0.0)
    rows.directions = rows.products = torch.zeros_like(rows.normal)
    most = max(BLOCK // size, 16)

    def ask(part: core.Search[_OurRows], _: Tensor, number: int, draw: int) -> None:
        rows = part.rows
        draws = rng.normal(number * size, seed, part.ids, draw).to(rows.normal.dtype)
        directions = orthogonal_(draws.view(len(draws), number, *part.x.shape[1:]), rows.normal)
        directions.mul_(like(_deviation(part), directions)).add_(_center(part).unsqueeze(1))
        look = part.decide(directions.clamp_(*part.threat.box), judge=False)
        answers = look.adversarial.to(directions.dtype) * 2 - 1
        # the directions that box and mask have left
        directions = look.x_adv.sub_(_center(part).unsqueeze(1))
        rows.answers = rows.answers + answers.sum(1)
        rows.directions = rows.directions + directions.sum(1)
        rows.products = rows.products + torch.einsum("nc,nc...->n...", answers, directions)

    for first in range(0, probes, most):
        number = min(most, probes - first)
        search.in_parts(3 * number, partial(ask, number=number, draw=next(draws)))
    mean = rows.answers / probes
    rows.shift = rows.shift - mean
    # answers that are all the same are worth a little nevertheless
    baseline = torch.where(mean.abs() < 1, mean, 0.0)
    gradient = rows.products - like(baseline, rows.products) * rows.directions
    rows.gradient = unit_(orthogonal_(gradient.unsqueeze(1), rows.normal).squeeze(1))


def _deviation(search: core.Search[_OurRows]) -> Tensor:
    """Return [n], the standard deviation of a coordinate of the probes, which the search copy can resolve."""
    distance = norm(search.rows.points - search.x, 2)
    least = torch.finfo(search.classifier.search_dtype or search.x.dtype).eps * width(search.threat)
    deviation: Tensor = (REACH / math.sqrt(search.x[0].numel()) * distance).clamp_min(least)
    return deviation


def _center(search: core.Search[_OurRows]) -> Tensor:
    """Return [n, ...], the center of the probes, `rows.shift` of their deviations from the boundary."""
    rows = search.rows
    center: Tensor = rows.points + like(rows.shift * _deviation(search), rows.points) * rows.normal
    return center


def _tilt(search: core.Search[_OurRows]) -> None:
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


def _move(search: core.Search[_OurRows]) -> None:
    """Move `rows.points` by the largest step of a geometric progression that ends adversarial, if any."""
    rows, x, order = search.rows, search.x, search.threat.order
    size = torch.linalg.vector_norm(rows.normal.flatten(1), dim=1)
    goal = x + like(search.distance(rows.points), x) * steepest(rows.normal, size, order)
    shares = 0.5 ** torch.arange(SIZES, device=x.device, dtype=x.dtype)
    steps = torch.einsum("c,n...->nc...", shares, goal - rows.points)
    look = search.decide((rows.points.unsqueeze(1) + steps).clamp_(*search.threat.box))
    first = look.adversarial.int().argmax(1)
    moved = look.x_adv[torch.arange(len(first), device=x.device), first]
    rows.points = torch.where(like(look.adversarial.any(1), moved), moved, rows.points)
