"""Elastic-net attack (Chen et al. 2018), for the least L1 distance."""

from math import sqrt
from typing import Unpack

from torch import Tensor

from fastadv.attacks import _ead, core
from fastadv.attacks.methods import constant_search
from fastadv.attacks.methods.constant_search import Constants
from fastadv.attacks.methods.geometry import positive, width
from fastadv.threat import Threat

# of the paper, for a box of width 1
BETA, FIRST, STEP = 1e-3, 1e-3, 0.01


class _Rows(Constants):
    """The points of the two sequences [n, ...]: where gradients are taken, and those before the momentum."""

    ahead: Tensor
    points: Tensor


@core.takes_common(norms=("l1",), steps=1, searches=1)
def ead(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 1000,
    searches: int = 9,
    variant: core.Variant = "fastadv",
    beta: float | None = None,
    constant: float | None = None,
    step_size: float | None = None,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:
    """Find the success nearest in L1: min constant * max(0, -margin(x + d)) + beta * ||d||_1 + ||d||_2^2.

    FISTA in the box: a step along the gradient of the smooth part, shrinkage of d by beta, and momentum k /
    (k + 3). Steps fall with the square root of what is left. Each of the `searches` starts at x with another
    constant, found by bisection. Of all points met, the success of least L1 norm is returned (the paper's L1
    rule). What the paper leaves open is as in the authors' code; its early end where the objective no longer
    falls is left out, since it depends on the batch. The margin is that of the criterion.

    Args:
        steps: of each search, an integer >= 1; 1,000 as in the paper.
        searches: the largest number of searches, an integer >= 1; 9 as in the paper.
        beta: a number > 0, in input units. None is 10 times the width of the box, or 0.001 of it in
            "published"; the paper has 0.001 to 0.1.
        constant: that of the first search, a number > 0. None is 4 times what a linear model with the
            gradient at x needs, if no pixel less than 0.3 times as steep as the steepest has to decide; in
            "published" it is 0.001 for a box of width 1.
        step_size: how far the steepest pixel moves in the first step, a number > 0, as a share of the
            distance that is expected, or of the width of the box if that is less; None is 0.1. At least 1
            from the second search on, until a sample has a success. In "published" it is the factor of the
            gradient, and None is 0.01.

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
        rule: core.Rule = _rule(steps, searches, weight, first, positive("step_size", step_size, STEP))
    else:
        size = positive("step_size", step_size, _ead.STEP)
        rule = _ead.rule(steps, searches, positive("beta", beta, _ead.BETA * edge), constant, size, edge)
    rows = _Rows if variant == "published" else _ead.Rows
    return core.run(model, x, y, threat, rule, rows=rows, minimum=True, **common)


def _rule(steps: int, searches: int, beta: float, constant: float, step_size: float) -> core.Rule[_Rows]:
    """Return algorithm 1 of the paper, for each constant."""

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows
        constant_search.reset(search)
        rows.constant = search.full(constant)
        for number in range(searches):
            constant_search.begin_run_plainly(search, last=number == searches - 1 >= 9)
            rows.points = rows.ahead = search.x
            for step in range(steps):
                look = search.gradient(rows.ahead, search.problem.margin, judge=False)
                away = look.x_adv - search.x
                descent = 2 * away - constant_search.force(search, look) * look.gradient
                before, rows.points = rows.points, _shrunk(search, away - _rate(step) * descent)
                rows.ahead = rows.points + step / (step + 3) * (rows.points - before)
                rows.hit |= search.decide(rows.points).adversarial
            constant_search.bisect_plainly(search)

    def _rate(step: int) -> float:
        return step_size * sqrt(1 - step / steps)

    def _shrunk(search: core.Search[_Rows], away: Tensor) -> Tensor:
        """Return the points, with displacements shorter by beta, in the box."""
        shorter = (away.abs() - beta).clamp_min(0).copysign(away)
        return (search.x + shorter).clamp(*search.threat.box)

    return rule
