"""Elastic-net attack (Chen et al. 2018), for the least L1 distance."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import ops
from fastadv.attacks import core
from fastadv.attacks.methods import constant_search
from fastadv.attacks.methods.constant_search import Constants
from fastadv.attacks.methods.geometry import like, positive, width
from fastadv.threat import Threat

# beta in widths of the box: the L1 norm then outweighs the squared distance even of pixels that cross it
BETA = 10.0
# the first constant, as a multiple of what a linear model needs
FIRST = 4.0
# the least gradient that may decide in a linear model, as a share of the largest: a pixel that hardly counts
# says nothing about the constant
FLATTEST = 0.3
# a finite stand-in for the room of a pixel in a box without edges
FAR = 1e15


class _Rows(Constants):
    before_step: Tensor
    points: Tensor
    length: Tensor
    share: Tensor
    steepest: Tensor


@core.takes_common(norms=("l1",), steps=1, searches=1)
def ead(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    searches: int = 5,
    beta: float | None = None,
    constant: float | None = None,
    step_size: float = 0.1,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the success nearest in L1: min constant * max(0, -margin(x + d)) + beta * ||d||_1 + ||d||_2^2.

    FISTA in the box (Chen et al. 2018, equations 4 to 7): a step along the gradient of the smooth part,
    shrinkage of d by beta times the step, and momentum k / (k + 3). Each of the `searches` starts at x with
    another constant, found by bisection. Of all points met, the success of least L1 norm is returned (the
    paper's L1 rule).

    Unlike in the authors' code, beta outweighs the squared distance, the first constant fits the model's
    gradient at x, the length of steps fits the expected distance and falls to zero in a straight line, a
    sample without a success after its first search takes long steps, and a sample leaves when a search has
    brought it nothing.

    Args:
        steps: of each search, an integer >= 1.
        searches: an integer >= 1, the largest number of searches.
        beta: a number > 0, in input units. None is 10 times the width of the box; the paper has 0.001 to 0.1.
        constant: a number > 0, that of the first search. None is 4 times what a linear model with the
            gradient at x needs, if no pixel less than 0.3 times as steep as the steepest has to decide.
        step_size: a number > 0, how far the steepest pixel moves in the first step, as a share of the
            distance that is expected, or of the width of the box if that is less. At least 1 from the second
            search on, until a sample has a success.

    The margin is that of the criterion.
    """
    edge = width(threat)
    weight = positive("beta", beta, BETA * edge)
    positive("step_size", step_size, 1.0)
    positive("constant", constant, 1.0)

    def rule(search: core.Search[_Rows]) -> None:
        rows, margin = search.rows, search.problem.margin
        constant_search.reset(search)
        for number in range(searches):
            constant_search.begin_run(search)
            rows.points = rows.before_step = search.x
            # a sample without a success is stuck where small steps led it
            far = max(step_size, 1.0) if number else step_size
            rows.share = torch.where(search.best.success, step_size, far)
            for step in range(steps):
                look = search.gradient(rows.points, margin)
                steepest = ops.largest(look.gradient)
                if not (number or step):
                    constant_search.set_first(search, _needed(search, look, weight), FIRST, constant)
                    rows.steepest, rows.length = steepest, -look.loss / steepest
                rows.hit |= look.adversarial
                torch.maximum(rows.steepest, steepest, out=rows.steepest)
                first = rows.share * rows.length.nan_to_num(edge).clamp_max(edge)
                rate = first * (1 - step / steps) / (rows.constant * rows.steepest)
                rate = like(rate.nan_to_num(0.0, 0.0), search.x).to(search.x.dtype)
                _advance(search, look.gradient * constant_search.force(search, look), rate, step)
            rows.hit |= search.decide(rows.before_step).adversarial
            rows.length = torch.where(search.best.success, search.best.distance, rows.length)
            search.leave(constant_search.bisect(search))

    def _advance(search: core.Search[_Rows], push: Tensor, rate: Tensor, step: int) -> None:
        """Take a proximal step from `rows.points`, then the momentum that leads to the next ones."""
        rows, box = search.rows, search.threat.box
        away = rows.points - search.x
        away = away.addcmul_(push.sub_(away, alpha=2), rate)
        shrunk = away.sign() * (away.abs() - rate * weight).clamp_min_(0)
        reached = (search.x + shrunk).clamp_(*box)
        rows.points = reached.lerp(rows.before_step, -(step + 1) / (step + 4)).clamp_(*box)
        rows.before_step = reached

    return core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, **common)


def _needed(search: core.Search[_Rows], look: core.GradientLook, weight: float) -> Tensor:
    """Return [n], the constant that a linear model needs: that for the L1 norm plus that for the square.

    The first moves the steepest pixels to the edge of the box, so that the last of them decides, or one of
    `FLATTEST` times the largest gradient where the last has less.
    """
    low, high = search.threat.box
    room = torch.where(look.gradient > 0, high - search.x, search.x - low).clamp_max(FAR).flatten(1)
    steep, order = look.gradient.abs().flatten(1).sort(1, descending=True)
    gap = -look.loss[:, None]
    count = ((steep * room.gather(1, order)).cumsum(1) < gap).sum(1, keepdim=True)
    last = steep.gather(1, count.clamp_max(steep.shape[1] - 1)).maximum(FLATTEST * steep[:, :1])
    return (
        (weight / last + 2 * gap / steep.square().sum(1, keepdim=True)).squeeze(1).to(search.best.rank.dtype)
    )
