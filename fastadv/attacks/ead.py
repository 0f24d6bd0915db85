"""Elastic-net attack (Chen et al. 2018), for the least L1 distance."""

from math import sqrt
from typing import Unpack

import torch
from torch import Tensor

from fastadv import ops
from fastadv.attacks import core
from fastadv.attacks.methods import bisection
from fastadv.attacks.methods.bisection import Constants
from fastadv.attacks.methods.geometry import FAR, like, positive, width
from fastadv.threat import Threat

# the paper's, for a box of width 1
BETA, FIRST, STEP = 1e-3, 1e-3, 0.01


class _Rows(Constants):
    """The points of the two sequences [n, ...]: where gradients are taken, and those before the momentum."""

    ahead: Tensor
    points: Tensor


@core.registered(kind="minimum", paper="Chen et al. 2018")
@core.tested(quick={"steps": 20, "searches": 3}, oracle={"steps": 100})
@core.takes_common(norms=("l1",), steps=1, searches=1)
def ead(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 1000,
    searches: int = 9, variant: core.Variant = "fastadv", beta: float | None = None,
    constant: float | None = None, step_size: float | None = None, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Find the success nearest in L1: min constant * max(0, -margin(x + d)) + beta * ||d||_1 + ||d||_2^2.

    FISTA in the box: a step along the gradient of the smooth part, shrinkage of d by beta, and momentum k /
    (k + 3). Steps fall with the square root of what is left. Each of the `searches` starts at x with another
    constant, found by bisection. Of all points met, the success of least L1 norm is returned (the paper's L1
    rule). The authors' early end where the objective no longer falls is left out, since it depends on the
    batch. The margin is that of the criterion.

    Args:
        threat: L1; the radius is inf or the largest distance of interest, a number or [B].
        steps: of each search, an integer >= 1; 1,000 as in the paper.
        searches: the largest number of searches, an integer >= 1; 9 as in the paper.
        beta: a number > 0, in input units. None is 10 times the width of the box, or 0.001 of it in
            "published"; the paper has 0.001 to 0.1.
        constant: that of the first search, a number > 0. None is 4 times what a linear model with the
            gradient at x needs; in "published" it is 0.001 for a box of width 1.
        step_size: how far the steepest pixel moves in the first step, a number > 0, as a share of the
            expected distance; None is 0.1. At least 1 from the second search on, until a sample has a
            success. In "published" it is the factor of the gradient, and None is 0.01.
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.ead(model, x, y, fa.L1(float("inf")), steps=50, searches=3)
        >>> bool(out.success.all())
        True

    Source:
        Chen et al. 2018, "EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial Examples" (arXiv
        1709.04114), algorithm 1 and equations 4 to 7.
    """
    positive("constant", constant, 1.0)
    edge = width(threat)
    if variant == "published":
        weight, first = positive("beta", beta, BETA * edge), positive("constant", constant, FIRST * edge**2)
        rule: core.Rule = _rule(searches, weight, first, positive("step_size", step_size, STEP))
    else:
        size = positive("step_size", step_size, OUR_STEP)
        rule = _ours(searches, positive("beta", beta, OUR_BETA * edge), constant, size, edge)
    rows = _Rows if variant == "published" else _OurRows
    return core.run(model, x, y, threat, rule, rows=rows, steps=steps, minimum=True, **common)


def _rule(searches: int, beta: float, constant: float, step_size: float) -> core.Rule[_Rows]:
    """Return algorithm 1 of the paper, for each constant."""

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows
        for _ in bisection.plain_runs(search, searches, constant):
            rows.points = rows.ahead = search.x
            for step in range(search.steps):
                look = search.gradient(rows.ahead, search.problem.margin, judge=False)
                away = look.x_adv - search.x
                descent = 2 * away - bisection.force(search, look) * look.gradient
                rate = step_size * sqrt(1 - step / search.steps)
                before, rows.points = rows.points, _shrunk(search, away - rate * descent)
                rows.ahead = rows.points + step / (step + 3) * (rows.points - before)
                rows.hit |= search.decide(rows.points).adversarial

    def _shrunk(search: core.Search[_Rows], away: Tensor) -> Tensor:
        """Return the points, with displacements shorter by beta, in the box."""
        shorter = (away.abs() - beta).clamp_min(0).copysign(away)
        return (search.x + shorter).clamp(*search.threat.box)

    return rule


# The fastadv variant (docs/departures.md).

# beta in widths of the box: the L1 norm then outweighs the squared distance even of pixels that cross it
OUR_BETA = 10.0
# the first constant, as a multiple of what a linear model needs
OUR_FIRST = 4.0
# the first step of the steepest pixel, over the expected distance
OUR_STEP = 0.1
# the least gradient that may decide in a linear model, as a share of the largest: a pixel that hardly counts
# says nothing about the constant
FLATTEST = 0.3


class _OurRows(Constants):
    before_step: Tensor
    points: Tensor
    length: Tensor
    share: Tensor
    steepest: Tensor


def _ours(
    searches: int, weight: float, constant: float | None, step_size: float, edge: float
) -> core.Rule[_OurRows]:
    """Return the rule; `step_size`: how far the steepest pixel moves, as a share of the expected distance."""

    def rule(search: core.Search[_OurRows]) -> None:
        rows, margin = search.rows, search.problem.margin
        for number in bisection.runs(search, searches):
            rows.points = rows.before_step = search.x
            # a sample without a success is stuck where small steps led it
            far = max(step_size, 1.0) if number else step_size
            rows.share = torch.where(search.best.success, step_size, far)
            for step in range(search.steps):
                look = search.gradient(rows.points, margin)
                steepest = ops.largest(look.gradient)
                if not (number or step):
                    bisection.set_first(search, _needed(search, look, weight), OUR_FIRST, constant)
                    rows.steepest, rows.length = steepest, -look.loss / steepest
                rows.hit |= look.adversarial
                torch.maximum(rows.steepest, steepest, out=rows.steepest)
                first = rows.share * rows.length.nan_to_num(edge).clamp_max(edge)
                rate = first * (1 - step / search.steps) / (rows.constant * rows.steepest)
                rate = like(rate.nan_to_num(0.0, 0.0), search.x).to(search.x.dtype)
                _advance(search, look.gradient * bisection.force(search, look), rate, step)
            rows.hit |= search.decide(rows.before_step).adversarial
            rows.length = torch.where(search.best.success, search.best.distance, rows.length)
            search.leave(bisection.bisect(search))

    def _advance(search: core.Search[_OurRows], push: Tensor, rate: Tensor, step: int) -> None:
        """Take a proximal step from `rows.points`, then the momentum that leads to the next ones."""
        rows, box = search.rows, search.threat.box
        away = rows.points - search.x
        away = away.addcmul_(push.sub_(away, alpha=2), rate)
        shrunk = away.sign() * (away.abs() - rate * weight).clamp_min_(0)
        reached = (search.x + shrunk).clamp_(*box)
        rows.points = reached.lerp(rows.before_step, -(step + 1) / (step + 4)).clamp_(*box)
        rows.before_step = reached

    return rule


def _needed(search: core.Search[_OurRows], look: core.GradientLook, weight: float) -> Tensor:
    """Return [n], the constant that a linear model needs: that for the L1 norm plus that for the square."""
    # The first moves the steepest pixels to the edge of the box, so that the last of them decides, or one of
    # `FLATTEST` times the largest gradient where the last has less.
    low, high = search.threat.box
    room = torch.where(look.gradient > 0, high - search.x, search.x - low).clamp_max(FAR).flatten(1)
    # float64, in which the squares of huge and tiny gradients have room
    steep, order = look.gradient.double().abs().flatten(1).sort(1, descending=True)
    gap = -look.loss[:, None]
    count = ((steep * room.gather(1, order)).cumsum(1) < gap).sum(1, keepdim=True)
    last = steep.gather(1, count.clamp_max(steep.shape[1] - 1)).maximum(FLATTEST * steep[:, :1])
    return (
        (weight / last + 2 * gap / steep.square().sum(1, keepdim=True)).squeeze(1).to(search.best.rank.dtype)
    )
