"""Boundary attack: random walk along the decision boundary (Brendel et al. 2018)."""

import math
from itertools import count
from typing import Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_share
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import like, orthogonal_, unit_
from fastadv.attacks.methods.start import Starts, away, check_starts, find_start, spend, to_boundary
from fastadv.threat import Threat

# queries where none are given: of the authors' foolbox 3; the paper has no number
STEPS = 25_000
# bisections from the start to the boundary
HALVINGS = 6
# by what the spherical step grows if all of its candidates are adversarial, and the source step if its own is
WIDER, LONGER = 1.2, 1.5
# by how many deviations of a coordinate candidates on the sphere come nearer to x if all are adversarial
NEARER = 0.5
# the least and largest spherical step, and the least and largest source step, as shares of the distance to x
NARROWEST, WIDEST = 1e-4, 1.0
SHORTEST, LONGEST = 1e-7, 0.25


class _Rows(Starts):
    """Of the candidates, the distance, the two sizes, how far out they lie, and the way deeper in."""

    deeper: Tensor
    distance: Tensor
    lift: Tensor
    source: Tensor
    spherical: Tensor


@core.registered(
    knowledge="decision", kind="minimum", random=True, paper="Brendel et al. 2018", tolerance=1.25
)
@core.tested(quick={"queries": 100, "restarts": 3}, oracle={"queries": 3000, "restarts": 1})
@core.takes_common(norms=("l2",), queries=1, steps=1, candidates=2)
def boundary(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    queries: int | None = None,
    steps: int | None = None,
    candidates: int = 10,
    spherical_step: float = 0.5,
    source_step: float = 0.1,
    starts: Tensor | None = None,
    restarts: int = 1,
    seed: int = 0,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the success nearest to x, by a random walk along the decision boundary that needs decisions only.

    A spherical step is orthogonal to the line to x and ends as far from x as it began; a source step leads
    towards x. The walk takes them where they stay adversarial. Both sizes follow the share of steps that end
    adversarial.

    Args:
        queries: the most points of each restart that pass the model for each image, an integer >= 1.
        steps: the same in the words of the paper, where a step is a query; the smaller of the two counts.
            Without either it is 25,000, the steps of the authors' foolbox 3; the paper gives no number.
        candidates: points of a sample that pass the model at once, an integer >= 2.
        spherical_step: the first size as a share of the distance to x, above 0 and at most 1.
        source_step: the same, between 0 and 1.

    Example:
        >>> out = fa.attacks.boundary(model, x, y, fa.L2(float("inf")), queries=200)
        >>> bool(out.success.all()), bool(out.distance.isfinite().all())
        (True, True)

    Source:
        Brendel et al. 2018, "Decision-Based Adversarial Attacks" (arXiv 1712.04248), algorithm 1.
    """
    budget = min((given for given in (queries, steps) if given is not None), default=STEPS)
    check_share("spherical_step", spherical_step, one=True)
    check_share("source_step", source_step)
    check_starts("boundary", starts, x, threat)
    rule = _rule(starts, budget, candidates, spherical_step, source_step)
    return core.run(
        model, x, y, threat, rule, rows=_Rows, minimum=True, restarts=restarts, seed=seed, **common
    )


def _rule(
    starts: Tensor | None, queries: int, candidates: int, spherical_step: float, source_step: float
) -> core.Rule[_Rows]:
    """Return a walk along the boundary by `candidates` points a step.

    All but one are random spherical steps. The sum of their directions, each times its answer less the mean
    answer, leads deeper among adversarial points. The last candidate is a spherical step that way and then a
    source step; the walk moves there if it is adversarial. The box makes answers one-sided, so random steps
    end farther from x or nearer until about half of them are adversarial.
    """

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows
        left = find_start(search, starts, queries)
        left = to_boundary(search, min(HALVINGS, left), left)
        rows.lift = search.full(0.0)
        rows.spherical, rows.source = rows.lift + spherical_step, rows.lift + source_step
        rows.deeper = torch.zeros_like(search.x)
        for step in count():
            number = min(candidates, left)
            if number < 2:
                return
            left = spend(search, number, left)
            _step(search, number - 1, step)

    return rule


def _step(search: core.Search[_Rows], number: int, step: int) -> None:
    """Ask about `number` spherical steps and one source step; take that if possible, and adapt the sizes."""
    rows, x = search.rows, search.x
    rows.distance, outward = search.distance(rows.points), away(search)
    candidates = [_spherical(search, outward, number, step), _source(search, outward).unsqueeze(1)]
    look = search.decide(torch.cat(candidates, 1).clamp_(*search.threat.box))
    answers = look.adversarial.to(x.dtype) * 2 - 1
    # as if one more candidate had been undecided, so that answers that are all the same count a little
    mean = answers[:, :-1].sum(1) / (number + 1)
    weights = (answers[:, :-1] - mean[:, None]) / (rows.spherical * rows.distance)[:, None]
    moves = look.seen[:, :-1].sub_(rows.points.unsqueeze(1))
    rows.deeper = rows.deeper + torch.einsum("nc,nc...->n...", weights, moves)
    rows.lift = rows.lift - NEARER * mean
    rows.spherical = (rows.spherical * WIDER**mean).clamp(NARROWEST, WIDEST)
    rows.source = (rows.source * LONGER ** answers[:, -1]).clamp(SHORTEST, LONGEST)
    rows.points = torch.where(like(look.adversarial[:, -1], x), look.seen[:, -1], rows.points)


def _spherical(search: core.Search[_Rows], outward: Tensor, number: int, step: int) -> Tensor:
    """Return [n, C, ...], random steps on the sphere around x, `rows.lift` deviations farther out."""
    rows, x, size = search.rows, search.x, search.x[0].numel()
    seed = rng.derive(search.seed, "boundary", search.restart)
    draws = rng.normal(number * size, seed, search.ids, step).to(x.dtype).view(len(x), number, *x.shape[1:])
    deviation = rows.spherical / math.sqrt(size)
    ways = orthogonal_(draws, outward).mul_(like(deviation, draws)).add_(outward.unsqueeze(1))
    unit_(ways.flatten(0, 1))
    return ways.mul_(like(rows.distance * (1 + rows.lift * deviation), ways)).add_(x.unsqueeze(1))


def _source(search: core.Search[_Rows], outward: Tensor) -> Tensor:
    """Return [n, ...], the source step along a plane, at a right angle to the way from x to where it ends."""
    rows, x = search.rows, search.x
    deeper = unit_(orthogonal_(rows.deeper.unsqueeze(1).clone(), outward).squeeze(1))
    cosine, sine = like(1 - rows.source, x), like((rows.source * (2 - rows.source)).sqrt(), x)
    return x + like(rows.distance, x) * cosine * (cosine * outward + sine * deeper)
