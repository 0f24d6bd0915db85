"""FMN, the fast minimum-norm attack (Pintor et al. 2021)."""

import math
from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count, check_share
from fastadv.attacks._common import Common, takes_common
from fastadv.attacks._core import run
from fastadv.attacks._geometry import advance, cosine, farthest, positive, width
from fastadv.attacks._problem import check_norm
from fastadv.attacks._result import AttackResult
from fastadv.attacks._search import Look, Search
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.threat import Threat

NORMS = ("linf", "l2", "l1", "l0")
DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
# the first step, over the width of the box
FIRST_STEP = {"linf": 10.0, "l2": 1.0, "l1": 1.0, "l0": 50.0}
LAST_STEP, LAST_GAMMA = 0.01, 0.02


@takes_common
def fmn(
    model: Model | Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float | None = None,
    gamma: float = 0.05,
    loss: losses.Loss | None = None,
    **common: Unpack[Common],
) -> AttackResult:
    """The success nearest to x, by gradient ascent inside a ball around x that shrinks and grows.

    z <- project(z + a g / ||g||_2), on box and ball. Where the last point is a success, the ball's radius
    shrinks by the share gamma, and at least to the best distance so far. Elsewhere it grows by that share if
    the sample has been broken before; if not, it is the distance at which a linear model of the loss crosses
    the boundary (Pintor et al. 2021, algorithm 1), and a little more. In L0 the radius starts at 1, and
    changes by 1 or more. The step a and gamma fall along a cosine, to 1 % and 2 % of their first value.
    Projections are exact, the box included.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is left as it is.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: Linf, L2, L1 or L0; its radius, inf or the largest distance of interest, a number or [B], in
            input units.
        steps: an integer >= 1, gradients for each sample.
        step_size: > 0, the Euclidean length of the first step, in input units. None is the width of the box
            (1 if that is infinite), 10 of it in Linf and 50 in L0: steps that lead beyond the box on many
            coordinates let the projection keep those whose whole range gains most.
        gamma: in (0, 1), the first share by which the radius shrinks and grows.
        loss: "margin", "ce", "dlr", "cw", or a function (logits, y, targets) -> [B], maximised; None is the
            margin of the criterion. Its boundary should be at 0.
        common: targets, criterion, mask, eot and ids, as in `fastadv.attacks.Common`.

    Where no success was found inside the threat, x itself is returned. A sample whose gradient is zero at x
    stays there. Raises InputError on wrong input, naming it.
    """
    check_norm("fmn", threat, NORMS)
    check_count("steps", steps, 1)
    step_size = positive("step_size", step_size, FIRST_STEP[threat.norm] * width(threat))
    check_share("gamma", gamma)
    if loss is not None:
        losses.check_loss(loss)

    def rule(search: Search) -> None:
        rows = search.rows
        rows.most = farthest(search)
        rows.radius = torch.ones_like(rows.most) if threat.norm == "l0" else rows.most
        points = search.start()
        for step in range(steps):
            look = search.gradient(points, loss)
            assert look.gradient is not None
            radius = _radius(search, look, gamma * cosine(step, steps, LAST_GAMMA))
            rows.radius = torch.minimum(radius, rows.most)
            further = advance(look.x_adv, look.gradient, search.x, step_size * cosine(step, steps, LAST_STEP))
            points = search.threat.resized(rows.radius).project(further, search.x)
        search.last(points)

    return run(model, x, y, threat, rule, minimum=True, **common)


def _radius(search: Search, look: Look, gamma: float) -> Tensor:
    """[n] the radius of the next ball."""
    radius, best = search.rows.radius, -search.best.rank
    if search.threat.norm == "l0":
        fewer = torch.minimum(torch.minimum(radius - 1, (radius * (1 - gamma)).floor()), best)
        more = torch.maximum(radius + 1, (radius * (1 + gamma)).floor())
        return torch.where(look.adversarial, fewer.clamp_min(0), more)
    assert look.loss is not None
    assert look.gradient is not None
    assert look.distance is not None
    smaller = torch.minimum(radius * (1 - gamma), best)
    # in float64, where the squares of huge and tiny gradients have room
    size = torch.linalg.vector_norm(
        look.gradient.flatten(1), DUAL[search.threat.norm], dim=1, dtype=torch.float64
    ).clamp_min(torch.finfo(torch.float64).tiny)
    # to the boundary if the loss were linear, and a little more, or it might never be crossed
    left = torch.maximum(look.loss.abs() / size * (1 + gamma), look.distance * gamma)
    larger = torch.where(search.best.success, radius * (1 + gamma), look.distance + left)
    return torch.where(look.adversarial, smaller, larger).to(radius.dtype)
