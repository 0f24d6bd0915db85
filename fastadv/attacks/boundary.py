"""Boundary attack: random walk along the decision boundary (Brendel et al. 2018)."""

import math
from functools import partial
from itertools import count
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_share
from fastadv.attacks import core
from fastadv.attacks.methods import start
from fastadv.attacks.methods.geometry import like, norm, orthogonal_, unit_
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.threat.checks import check_finite_box

# queries where none are given: of the authors' foolbox 3; the paper has no number
STEPS = 25_000
# both first sizes, as shares of the distance to x
FIRST_STEP = 0.01
# bisections of the way from the first noise to x
HALVINGS = 10
# every so many steps the point on the sphere is asked about as well, for the rates below
CHECKED = 10
# the answers that a rate is taken of, and the rates outside of which sizes change
SPHERICAL_ANSWERS, SPHERICAL_RATES = 100, (0.2, 0.5)
SOURCE_ANSWERS, SOURCE_RATES = 30, (0.1, 0.25)
# the factor by which a size changes, and the source step at which the walk has converged
ADAPTATION, CONVERGED = 1.5, 1e-7


class _Walk(start.Starts):
    """The two sizes [n], and the last answers, 0 or 1, NaN for those yet to come."""

    spherical: Tensor
    source: Tensor
    on_sphere: Tensor  # [n, 100], answers about points on the sphere
    nearer: Tensor  # [n, 30], about steps towards x
    sphere: Tensor  # the point of a step on the sphere
    met: Tensor  # whether its candidate was adversarial


@core.registered(
    knowledge="decision", kind="minimum", random=True, paper="Brendel et al. 2018", tolerance=1.25
)
@core.tested(quick={"queries": 100, "restarts": 3}, oracle={"queries": 3000, "restarts": 1})
@core.takes_common(norms=("l2",), queries=1, steps=1, candidates=2)
def boundary(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int | None = None,
    steps: int | None = None, variant: core.Variant = "fastadv", candidates: int | None = None,
    spherical_step: float | None = None, source_step: float | None = None, starts: Tensor | None = None,
    restarts: int = 1, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the success nearest to x, by a random walk along the decision boundary that needs decisions only.

    A spherical step is orthogonal to the line to x and ends as far from x as it began; a source step leads
    towards x. The walk takes them where they stay adversarial. Both sizes follow the share of steps that end
    adversarial.

    Args:
        threat: L2; the radius is inf or the largest distance of interest, a number or [B].
        queries: the most points of each restart that pass the model for each image, an integer >= 1.
        steps: the same in the words of the paper, where a step is a query; the smaller of the two counts.
            Without either it is 25,000, the steps of the authors' foolbox 3; the paper gives no number.
        candidates: points of a sample that pass the model at once, an integer >= 2; None is 10, published 1.
        spherical_step: the first size as a share of the distance to x, above 0 and at most 1. None is 0.5,
            published 0.01.
        source_step: the same, between 0 and 1. None is 0.1, published 0.01.
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        starts: floating like x, adversarial points inside the box. None looks for them among blends of x and
            uniform noise, which needs a finite box. A sample without such a point counts as held.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.boundary(model, x, y, fa.L2(float("inf")), queries=200)
        >>> bool(out.success.all()), bool(out.distance.isfinite().all())
        (True, True)

    Source:
        Brendel et al. 2018, "Decision-Based Adversarial Attacks" (arXiv 1712.04248), algorithm 1.
    """
    budget = min((limit for limit in (queries, steps) if limit is not None), default=STEPS)
    published = variant == "published"
    if published and candidates is not None:
        raise InputError(f"candidates: expected None where variant is 'published', got {candidates}")
    if spherical_step is None:
        spherical_step = FIRST_STEP if published else SPHERICAL
    if source_step is None:
        source_step = FIRST_STEP if published else SOURCE
    check_share("spherical_step", spherical_step, one=True)
    check_share("source_step", source_step)
    if starts is None:
        check_finite_box("boundary", threat)
    start.check_starts(starts, x, threat)
    how: dict[str, Any] = {"minimum": True, "restarts": restarts, "seed": seed, **common}
    if published:
        walk = _rule(starts, budget, spherical_step, source_step)
        return core.run(model, x, y, threat, walk, rows=_Walk, **how)
    number = CANDIDATES if candidates is None else candidates
    rule = _ours(starts, budget, number, spherical_step, source_step)
    return core.run(model, x, y, threat, rule, rows=_OurRows, **how)


def _rule(starts: Tensor | None, queries: int, spherical_step: float, source_step: float) -> core.Rule[_Walk]:
    """Return a random walk along the boundary (Brendel et al. 2018, algorithm 1 and section 2)."""
    # numbers that the paper leaves open are those of the authors' foolbox 3

    def rule(search: core.Search[_Walk]) -> None:
        rows = search.rows
        left = start.find_start(search, starts, queries, start.box_noise)
        if starts is None:
            left = start.to_boundary(search, min(HALVINGS, left), left)
        rows.spherical, rows.source = search.full(spherical_step), search.full(source_step)
        rows.on_sphere = search.full(torch.nan)[:, None].expand(-1, SPHERICAL_ANSWERS)
        rows.nearer = rows.on_sphere[:, :SOURCE_ANSWERS]
        for step in count(1):
            checks = step % CHECKED == 0
            cost = 1 + checks
            if left < cost:
                return
            left = start.spend(search, cost, left)
            search.leave(rows.source < CONVERGED)
            nearer, rows.sphere = _propose(search, step)
            look = search.decide(nearer)
            goes = look.adversarial & (look.distance < search.distance(rows.points))
            rows.points = torch.where(like(goes, search.x), look.x_adv, rows.points)
            if checks:
                rows.met = look.adversarial
                _adapt(rows, search.decide(rows.sphere, judge=False).adversarial)

    return rule


def _propose(search: core.Search[_Walk], step: int) -> tuple[Tensor, Tensor]:
    """Return points `rows.spherical` aside: `rows.source` nearer than the last, and on the sphere."""
    rows, x = search.rows, search.x
    seed = rng.derive(search.seed, "boundary", search.restart)
    draws = rng.normal(x[0].numel(), seed, search.ids, step).to(x.dtype).view_as(x)
    radius, outward = search.distance(rows.points), start.away(search)
    aside = unit_(orthogonal_(draws.unsqueeze(1), outward).squeeze(1))
    turned = (outward + like(rows.spherical, x) * aside) / like((1 + rows.spherical.square()).sqrt(), x)
    sphere = search.problem.masked((x + like(radius, x) * turned).clamp(*search.threat.box))
    # the box may have brought it nearer already
    length = norm(sphere - x, 2)
    share = (rows.source * radius + length - radius).clamp_min(0) / length.clamp_min(
        torch.finfo(x.dtype).tiny
    )
    nearer = sphere + like(share, x) * (x - sphere)
    return nearer.clamp(*search.threat.box), sphere


def _adapt(rows: _Walk, on_sphere: Tensor) -> None:
    """Follow the answers about the candidates, `rows.met`, and about the points `on_sphere` bool [n]."""
    factor, rows.on_sphere = _follow(rows.on_sphere, on_sphere, *SPHERICAL_RATES)
    rows.spherical, rows.source = rows.spherical * factor, rows.source * factor
    factor, rows.nearer = _follow(rows.nearer, rows.met, *SOURCE_RATES)
    rows.source = rows.source * factor


def _follow(last: Tensor, answer: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return [n], by what a size changes, and the last answers with this one; emptied where it changes."""
    last = torch.cat([last[:, 1:], answer[:, None].to(last.dtype)], 1)
    rate = last.mean(1)  # NaN until there are enough
    change = (rate > high).to(rate.dtype) - (rate < low).to(rate.dtype)
    return ADAPTATION**change, last.masked_fill(change[:, None] != 0, torch.nan)


# The fastadv variant (docs/departures.md).

# the first spherical and source step, as shares of the distance to x
SPHERICAL, SOURCE = 0.5, 0.1
# candidates of a step, and bisections from the start to the boundary
CANDIDATES, OUR_HALVINGS = 10, 6
# the growth of the spherical step if all of its candidates are adversarial, and the source step if its own is
WIDER, LONGER = 1.2, 1.5
# deviations of a coordinate by which candidates on the sphere come nearer to x if all are adversarial
NEARER = 0.5
# the least and largest spherical step, and the least and largest source step, as shares of the distance to x
NARROWEST, WIDEST = 1e-4, 1.0
SHORTEST, LONGEST = 1e-7, 0.25


class _OurRows(start.Starts):
    """Of the candidates, the distance, the two sizes, how far out they lie, and the way deeper in."""

    deeper: Tensor
    distance: Tensor
    lift: Tensor
    source: Tensor
    spherical: Tensor


def _ours(
    starts: Tensor | None, queries: int, candidates: int, spherical_step: float, source_step: float
) -> core.Rule[_OurRows]:
    """Return a walk along the boundary by `candidates` points a step."""
    # All but one are random spherical steps, so far out or in that about half are adversarial. The sum of
    # their directions, each times its answer less the mean, leads deeper; the last goes there, then nearer.

    def rule(search: core.Search[_OurRows]) -> None:
        rows = search.rows
        left = start.find_start(search, starts, queries)
        left = start.to_boundary(search, min(OUR_HALVINGS, left), left)
        rows.lift = search.full(0.0)
        rows.spherical, rows.source = rows.lift + spherical_step, rows.lift + source_step
        rows.deeper = torch.zeros_like(search.x)
        for step in count():
            number = min(candidates, left)
            if number < 2:
                return
            left = start.spend(search, number, left)
            search.in_parts(3 * number, partial(_step, number=number - 1, step=step))

    return rule


def _step(search: core.Search[_OurRows], _: Tensor, number: int, step: int) -> None:
    """Ask about `number` spherical steps and one source step; take that if possible, and adapt the sizes."""
    rows, x = search.rows, search.x
    rows.distance, outward = search.distance(rows.points), start.away(search)
    candidates = [_spherical(search, outward, number, step), _source(search, outward).unsqueeze(1)]
    look = search.decide(torch.cat(candidates, 1).clamp_(*search.threat.box))

    x = search.x
    answers = look.adversarial.to(x.dtype) * 2 - 1
    # one more candidate counts as undecided, so that answers that are all the same count a little
    mean = answers[:, :-1].sum(1) / (number + 1)
    weights = (answers[:, :-1] - mean[:, None]) / (rows.spherical * rows.distance)[:, None]
    moves = look.x_adv[:, :-1].sub_(rows.points.unsqueeze(1))
    rows.deeper = rows.deeper + torch.einsum("nc,nc...->n...", weights, moves)
    rows.lift = rows.lift - NEARER * mean
    rows.spherical = (rows.spherical * WIDER**mean).clamp(NARROWEST, WIDEST)
    rows.source = (rows.source * LONGER ** answers[:, -1]).clamp(SHORTEST, LONGEST)
    rows.points = torch.where(like(look.adversarial[:, -1], x), look.x_adv[:, -1], rows.points)


def _spherical(search: core.Search[_OurRows], outward: Tensor, number: int, step: int) -> Tensor:
    """Return [n, C, ...], random steps on the sphere around x, `rows.lift` deviations farther out."""
    rows, x, size = search.rows, search.x, search.x[0].numel()
    seed = rng.derive(search.seed, "boundary", search.restart)
    draws = rng.normal(number * size, seed, search.ids, step).to(x.dtype).view(len(x), number, *x.shape[1:])
    deviation = rows.spherical / math.sqrt(size)
    ways = orthogonal_(draws, outward).mul_(like(deviation, draws)).add_(outward.unsqueeze(1))
    unit_(ways.flatten(0, 1))
    return ways.mul_(like(rows.distance * (1 + rows.lift * deviation), ways)).add_(x.unsqueeze(1))


def _source(search: core.Search[_OurRows], outward: Tensor) -> Tensor:
    """Return [n, ...], the source step along a plane, at a right angle to the way from x to where it ends."""
    rows, x = search.rows, search.x
    deeper = unit_(orthogonal_(rows.deeper.unsqueeze(1).clone(), outward).squeeze(1))
    cosine, sine = like(1 - rows.source, x), like((rows.source * (2 - rows.source)).sqrt(), x)
    return x + like(rows.distance, x) * cosine * (cosine * outward + sine * deeper)
