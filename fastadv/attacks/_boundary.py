"""What this library makes of the boundary attack: many candidates at once, and no answer lost."""

import math
from itertools import count

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import like, orthogonal_, unit_
from fastadv.attacks.methods.start import Starts, away, find_start, spend, to_boundary

# the first spherical and source step, as shares of the distance to x
SPHERICAL, SOURCE = 0.5, 0.1
# candidates of a step, and bisections from the start to the boundary
CANDIDATES, HALVINGS = 10, 6
# by what the spherical step grows if all of its candidates are adversarial, and the source step if its own is
WIDER, LONGER = 1.2, 1.5
# by how many deviations of a coordinate candidates on the sphere come nearer to x if all are adversarial
NEARER = 0.5
# the least and largest spherical step, and the least and largest source step, as shares of the distance to x
NARROWEST, WIDEST = 1e-4, 1.0
SHORTEST, LONGEST = 1e-7, 0.25


class Rows(Starts):
    """Of the candidates, the distance to x, the two sizes, how many deviations they lie farther out, and the
    direction [n, ...] that leads deeper among adversarial points.
    """

    deeper: Tensor
    distance: Tensor
    lift: Tensor
    source: Tensor
    spherical: Tensor


def rule(
    starts: Tensor | None, queries: int, candidates: int, spherical_step: float, source_step: float
) -> core.Rule[Rows]:
    """Return a walk along the boundary by `candidates` points a step.

    All but one are random spherical steps. The sum of their directions, each times its answer less the mean
    answer, leads deeper among adversarial points; it goes on growing, since the boundary stays much the same.
    The last candidate is a spherical step that way and then a source step, in the proportion that leads along
    a plane boundary. The walk moves there if it is adversarial. The box makes answers one-sided, so random
    steps end farther from x or nearer until about half of them are adversarial.
    """

    def rule(search: core.Search[Rows]) -> None:
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


def _step(search: core.Search[Rows], number: int, step: int) -> None:
    """Ask about `number` spherical steps and one source step; take that if possible, and adapt the sizes."""
    rows, x = search.rows, search.x
    rows.distance, outward = search.distance(rows.points), away(search)
    candidates = [_spherical(search, outward, number, step), _source(search, outward).unsqueeze(1)]
    look = search.decide(torch.cat(candidates, 1).clamp_(*search.threat.box))

    x = search.x
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


def _spherical(search: core.Search[Rows], outward: Tensor, number: int, step: int) -> Tensor:
    """Return [n, C, ...], random steps on the sphere around x, `rows.lift` deviations farther out."""
    rows, x, size = search.rows, search.x, search.x[0].numel()
    seed = rng.derive(search.seed, "boundary", search.restart)
    draws = rng.normal(number * size, seed, search.ids, step).to(x.dtype).view(len(x), number, *x.shape[1:])
    deviation = rows.spherical / math.sqrt(size)
    ways = orthogonal_(draws, outward).mul_(like(deviation, draws)).add_(outward.unsqueeze(1))
    unit_(ways.flatten(0, 1))
    return ways.mul_(like(rows.distance * (1 + rows.lift * deviation), ways)).add_(x.unsqueeze(1))


def _source(search: core.Search[Rows], outward: Tensor) -> Tensor:
    """Return [n, ...], the source step along a plane, at a right angle to the way from x to where it ends."""
    rows, x = search.rows, search.x
    deeper = unit_(orthogonal_(rows.deeper.unsqueeze(1).clone(), outward).squeeze(1))
    cosine, sine = like(1 - rows.source, x), like((rows.source * (2 - rows.source)).sqrt(), x)
    return x + like(rows.distance, x) * cosine * (cosine * outward + sine * deeper)
