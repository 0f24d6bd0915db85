"""Box-constrained L-BFGS (Szegedy et al. 2014), all samples of a batch at once, for the least L2 distance."""

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fastadv.attacks import core
from fastadv.attacks.methods import bisection
from fastadv.attacks.methods.bisection import Constants
from fastadv.attacks.methods.geometry import positive
from fastadv.threat import Threat

# the first constant, as a multiple of what a linear model needs
FIRST = 2.0
# the margin at x in units of the bend of the loss, so that it does not depend on the scale of the logits
BENDS = 30.0
# the search for the constant ends when it is known to within this factor
NARROW = 1.02
# pairs of steps and gradient changes that estimate the curvature
MEMORY = 6
# a step is taken where it gains this share of what the gradient promises (Armijo)
ENOUGH = 1e-4


class _Rows(Constants):
    trial: Tensor
    point: Tensor
    value: Tensor
    gradient: Tensor
    length: Tensor
    moves: Tensor
    changes: Tensor
    weights: Tensor
    unit: Tensor


@core.registered(kind="minimum", paper="Szegedy et al. 2014")
@core.tested(quick={"steps": 10, "searches": 4}, oracle={"steps": 40})
@core.takes_common(norms=("l2",), steps=1, searches=1)
def lbfgs(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int, searches: int = 9,
    constant: float | None = None, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Find the nearest success: min ||z - x||^2 + constant * unit * log(1 + exp(-margin(z) / unit)).

    z is in the box. With two classes and a unit of 1 the second term is the paper's cross-entropy; with more
    it stays smooth and takes any criterion, whose margin it is. The unit is a thirtieth of the margin at x,
    so that a positive factor of all logits changes nothing. Each of the `searches` is a projected L-BFGS from
    x with another constant, found by bisection. Every sample has its own curvature, length of step and
    constant, so that each step is one full batch: a sample whose step was too long tries a shorter one in the
    next batch.

    Args:
        threat: L2; the radius is inf or the largest distance of interest, a number or [B].
        steps: gradients of each search, an integer >= 1; the paper gives no number.
        searches: the largest number of searches, an integer >= 1, of which the paper says nothing. A sample
            leaves earlier when its constant is known to within 2%.
        constant: that of the first search, a number > 0. None is twice what a linear model with the gradient
            at x needs.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Szegedy et al. 2014, "Intriguing Properties of Neural Networks" (arXiv 1312.6199), section 4.1.
    """
    positive("constant", constant, 1.0)

    def rule(search: core.Search[_Rows]) -> None:
        rows, margin = search.rows, search.problem.margin
        for number in bisection.runs(search, searches):
            _begin(search)
            for step in range(search.steps):
                look = search.gradient(rows.trial.view_as(search.x), margin)
                if not (number or step):
                    _fit(search, look, constant)
                rows.hit |= look.adversarial
                _consider(search, look, step)
                _propose(search, step)
            rows.hit |= search.decide(rows.trial.view_as(search.x)).adversarial
            bisection.bisect(search)
            search.leave(rows.high < NARROW * rows.low)

    return core.run(model, x, y, threat, rule, rows=_Rows, steps=steps, minimum=True, **common)


def _fit(search: core.Search[_Rows], look: core.GradientLook, constant: float | None) -> None:
    """Set the unit of the margin, and the first constant, for a model as linear as at x."""
    # both parts balance at its boundary, where the loss is half as steep as the margin
    # in float64, where the squares of huge and tiny gradients have room
    gap, steepness = -look.loss.double(), look.gradient.double().flatten(1).norm(dim=1)
    unit = torch.where(gap > 0, gap / BENDS, 1.0)
    bisection.set_first(search, 4 * gap / steepness.square(), FIRST, constant)
    search.rows.unit = unit.to(look.loss.dtype)


def _begin(search: core.Search[_Rows]) -> None:
    """Take x as the first trial, and forget the curvature."""
    rows, x = search.rows, search.x.flatten(1)
    rows.trial = rows.point = x
    rows.value = torch.full_like(rows.trial[:, 0], torch.inf)
    rows.gradient = torch.zeros_like(rows.trial)
    rows.length = torch.ones_like(rows.value)
    rows.moves, rows.changes = (rows.trial.new_zeros(len(x), MEMORY, x.shape[1]) for _ in range(2))
    rows.weights = rows.trial.new_zeros(len(x), MEMORY)


def _consider(search: core.Search[_Rows], look: core.GradientLook, step: int) -> None:
    """Move the samples whose trial is good enough there, and remember the curvature on the way."""
    rows = search.rows
    away = rows.trial - search.x.flatten(1)
    constant = rows.constant.to(away.dtype)
    lead = look.loss / rows.unit
    value = away.square().sum(1) - constant * (rows.unit * logsigmoid(lead)).to(away.dtype)
    push = constant * lead.neg().sigmoid().to(away.dtype)
    gradient = 2 * away - push[:, None] * look.gradient.flatten(1)
    move, change = rows.trial - rows.point, gradient - rows.gradient
    good = value <= rows.value + ENOUGH * (rows.gradient * move).sum(1)
    curvature = (move * change).sum(1)
    place, convex = step % MEMORY, good & (curvature > 1e-10 * change.square().sum(1)) & (step > 0)
    rows.moves[:, place], rows.changes[:, place] = move, change
    rows.weights[:, place] = torch.where(convex, 1 / curvature, 0.0)
    rows.length = torch.where(good, 1.0, rows.length / 2)
    rows.value = torch.where(good, value, rows.value)
    rows.point = torch.where(good[:, None], rows.trial, rows.point)
    rows.gradient = torch.where(good[:, None], gradient, rows.gradient)


def _propose(search: core.Search[_Rows], step: int) -> None:
    """Set the next trial: along the quasi-Newton direction, among the pixels that the box lets move."""
    rows, (low, high) = search.rows, search.threat.box
    blocked = ((rows.point <= low) & (rows.gradient > 0)) | ((rows.point >= high) & (rows.gradient < 0))
    steepest = rows.gradient.masked_fill(blocked, 0.0)
    direction = _newton(steepest, rows, step).masked_fill_(blocked, 0.0)
    uphill = (direction * steepest).sum(1, keepdim=True) <= 0
    direction = torch.where(uphill, steepest / 2, direction)
    rows.trial = torch.addcmul(rows.point, rows.length[:, None], direction, value=-1).clamp_(low, high)


def _newton(gradient: Tensor, rows: Any, step: int) -> Tensor:
    """Return the inverse Hessian times the gradient [n, D], by the pairs that count (Nocedal 1980)."""
    moves, changes, weights = rows.moves, rows.changes, rows.weights
    order = [(step - age) % MEMORY for age in range(min(MEMORY, step + 1))]
    shares, scale = {}, torch.full_like(gradient[:, 0], 0.5)
    result = gradient.clone()
    for place in order:
        shares[place] = weights[:, place] * (moves[:, place] * result).sum(1)
        result.addcmul_(shares[place][:, None], changes[:, place], value=-1)
    for place in reversed(order):  # the newest pair that counts sets the scale
        known = weights[:, place] > 0
        size = 1 / (weights[:, place] * changes[:, place].square().sum(1))
        scale = torch.where(known, size, scale)
    result *= scale[:, None]
    for place in reversed(order):
        share = shares[place] - weights[:, place] * (changes[:, place] * result).sum(1)
        result.addcmul_(share[:, None], moves[:, place])
    return result
