"""HopSkipJump: steps along the normal of the boundary, estimated from decisions (Chen et al. 2020)."""

import math
from itertools import count
from sys import maxsize
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import _hopskipjump, core
from fastadv.attacks.methods.geometry import like, unit, width
from fastadv.attacks.methods.start import Starts, box_noise, check_starts, find_start, to_boundary
from fastadv.threat import Threat

# steps where neither they nor queries are given, as in the authors' code
STEPS = 40
# bisections of the way from the first noise to x
BLENDS = 10
# probes of a step at most
MOST = 10_000
# how far the first probes lie from the boundary, in widths of the box
FIRST_DELTA = 0.1
# values of the probes of one sample that pass the model at once
BLOCK = 1 << 17


class _Hops(Starts):
    """Before the last bisection, the distance to x: `reach` [n]. The `update` [n, ...] along which a step
    goes, and how far: `size` [n]. Of the probes, the sums of the answers [n], of the directions and of their
    products [n, ...]. `done` bool [n]: the step has ended adversarial, or the queries have.
    """

    reach: Tensor
    update: Tensor
    size: Tensor
    answers: Tensor
    directions: Tensor
    products: Tensor
    done: Tensor


@core.takes_common(norms=("l2", "linf"), queries=1, steps=1, directions=1)
def hopskipjump(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: int | None = None,
    steps: int | None = None,
    variant: core.Variant = "fastadv",
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

    The "fastadv" variant keeps what is known of the normal: in L2 the direction away from x, which is the
    normal where the boundary is nearest, and in Linf the last estimate. Probes only turn it, and their center
    moves until the answers balance, since the box, which cuts probes off, would make most of them the same.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. Only decisions are used.
        queries: the most points of each restart that pass the model for each image, an integer >= 1.
        steps: the most steps, an integer >= 1. Without steps and queries it is 40, as in the authors' code,
            which come to 18,000 queries.
        directions: probes of the first step, an integer >= 1; 100 in the paper.

    Raises:
        InputError: an argument is wrong, or a start is not adversarial; the message names it.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
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
    how: dict[str, Any] = {"minimum": True, "restarts": restarts, "seed": seed, **common}
    if variant == "published":
        return core.run(model, x, y, threat, _rule(starts, queries, steps, directions), rows=_Hops, **how)
    rule = _hopskipjump.rule(starts, queries, steps, directions)
    return core.run(model, x, y, threat, rule, rows=_hopskipjump.Rows, **how)


def _rule(starts: Tensor | None, queries: int, steps: int | None, directions: int) -> core.Rule[_Hops]:
    """Return the steps of Chen et al. 2020, algorithm 2, which begin at uniform noise that is adversarial.

    The numbers that the paper leaves open are those of the authors' code. The search ends where the queries
    left are fewer than the next step takes at least.
    """

    def rule(search: core.Search[_Hops]) -> None:
        rows, halvings = search.rows, _bisections(search)
        left = find_start(search, starts, queries, box_noise)
        if starts is None:
            left = to_boundary(search, min(BLENDS, left), left, straight=True)
        rows.reach = search.full(FIRST_DELTA * width(search.threat) * search.x[0].numel())
        left = to_boundary(search, min(halvings, left), left)
        for step in count(1) if steps is None else range(1, steps + 1):
            probes = min(int(directions * math.sqrt(step)), MOST)
            search.leave(rows.left < probes + 1 + halvings)
            search.drop_leaving(search.x)
            rows.left = rows.left - probes - 1
            _estimate(search, probes, step)
            rows.size = search.distance(rows.points) / math.sqrt(step)
            _progress(search, halvings)
            rows.reach = search.distance(rows.points)
            to_boundary(search, halvings, queries)

    return rule


def _bisections(search: core.Search) -> int:
    """Return how many bisections come within theta of the boundary, as a share of the way to x.

    With D coordinates theta is D^(-3/2) in L2, and D^-2 in Linf. Shares are no finer than their dtype is.
    """
    power = 1.5 if search.threat.order == 2 else 2.0
    finest = 1 - math.log2(torch.finfo(search.x.dtype).eps)
    return math.ceil(min(power * math.log2(search.x[0].numel()), finest))


def _estimate(search: core.Search[_Hops], probes: int, step: int) -> None:
    """Set `rows.update` to the estimated gradient at length 1, or to its signs in Linf (equation 16).

    A probe lies delta from the boundary, in a random direction: reach / D. A direction counts by its answer,
    1 or -1, less the mean answer.
    """
    rows, size = search.rows, search.x[0].numel()
    seed = rng.derive(search.seed, "hopskipjump", search.restart, step)
    # the search copy could not tell closer probes apart
    least = torch.finfo(search.classifier.search_dtype or search.x.dtype).eps * width(search.threat)
    delta = (rows.reach / size).clamp_min(least * math.sqrt(size))
    rows.answers = torch.zeros_like(delta)
    rows.directions = rows.products = torch.zeros_like(rows.points)
    rows.size = delta
    block = max(BLOCK // size, 16)
    for draw, first in enumerate(range(0, probes, block)):
        number = min(block, probes - first)
        kind = rng.normal if search.threat.order == 2 else rng.uniform
        draws = kind(number * size, seed, search.ids, draw).to(search.x.dtype)
        draws = draws if search.threat.order == 2 else 2 * draws - 1
        ways = unit(draws.view(-1, *search.x.shape[1:])).view(len(draws), number, *search.x.shape[1:])
        points = rows.points.unsqueeze(1) + like(rows.size, ways) * ways
        look = search.decide(points.clamp_(*search.threat.box), judge=False)
        answers = look.adversarial.to(ways.dtype) * 2 - 1
        # what box and mask have left of the directions
        ways = (look.x_adv - rows.points.unsqueeze(1)) / like(rows.size, ways)
        rows.answers = rows.answers + answers.sum(1)
        rows.directions = rows.directions + ways.sum(1)
        rows.products = rows.products + torch.einsum("nc,nc...->n...", answers, ways)
    mean = rows.answers / probes
    mean = torch.where(mean.abs() < 1, mean, 0.0)
    gradient = unit(rows.products - like(mean, rows.products) * rows.directions)
    rows.update = gradient if search.threat.order == 2 else gradient.sign()


def _progress(search: core.Search[_Hops], halvings: int) -> None:
    """Move `rows.points` along `rows.update` by `rows.size`, halved until the point is adversarial.

    Each further size is a query. A sample keeps as many as the bisection takes; without more it stays.
    """
    rows = search.rows
    others = search.over(search.problem, search.best)
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
            moved[here.place[new]] = look.seen[new]
            here.done = here.done | new | (here.left <= halvings)
            here.left = here.left - (~here.done).to(here.left.dtype)
            left[here.place] = here.left
            here.size = here.size / 2
            others.leave(here.done)
    except core.Over:
        pass
    rows.points, rows.left = moved, left
