"""PDPGD, primal-dual proximal gradient descent (Matyasko and Chau 2021)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import like, positive, shorten_, width
from fastadv.attacks.methods.primal_dual import MOMENTUM, Displacements, primal_dual
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat

FIRST_WEIGHT = {"linf": 0.3, "l2": 0.3, "l1": 0.1, "l0": 0.3}
FIRST_STEP = {"linf": 1.0, "l2": 1.0, "l1": 3.0, "l0": 30.0}
LAST_STEP = {"linf": 0.01, "l2": 0.01, "l1": 0.01, "l0": 1.0}
# the share of the steps that explore by proximal Adam; how many at least refine, unless fewer than the last
# number, or than that share, were left to explore
ADAPTIVE = {"l2": 0.6, "l1": 0.5, "l0": 0.6}
REFINING, FEWEST = {"l2": 40, "l0": 100}, {"l2": 12}


@core.registered(kind="minimum", paper="Matyasko and Chau 2021")
@core.tested(quick={"steps": 40}, oracle={"steps": 100})
@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def pdpgd(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 500,
    step_size: float | None = None,
    weight: float | None = None,
    loss: losses.Loss | None = None,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:
    """Minimize weight * ||d|| - loss(x + d): gradient steps on the loss, proximal on the distance.

    Except in Linf, Adam explores first: along the gradient of softplus(-loss), and then, in its metric and by
    five iterations, towards the least of weight * ||z|| and the squared distance from d (Melchior et al.
    2019). The other steps are of fixed length, and refine what was found. d is always clipped to the box. The
    weight, which is the dual variable, moves as in `pdgd`.

    Args:
        steps: gradients for each sample, an integer >= 1; 500 as in adv-lib.
        step_size: the first step, > 0, in units of the least distance of a success so far, at most the width
            of the box; in L0 always of that width. None is 1, 3 in L1 and 30 in L0. Except in Linf it is the
            first of those that refine.
        weight: the first weight of the distance, > 0; None is 0.3, and 0.1 in L1. Except in Linf it is that
            of the steps that refine.

    Source:
        Matyasko and Chau 2021 (arXiv 2106.01538); adv-lib has the paper's steps.
    """
    norm = threat.norm
    size = positive("step_size", step_size, FIRST_STEP[norm])
    first = positive("weight", weight, FIRST_WEIGHT[norm])

    def rule(search: core.Search) -> None:
        primal_dual(
            search, _descend, steps=steps, step_size=size, last_step=LAST_STEP[norm], weight=first, loss=loss,
            exploring=_exploring(norm, steps),
        )  # fmt: skip

    return core.run(model, x, y, threat, rule, rows=Displacements, minimum=True, **common)


def _exploring(norm: str, steps: int) -> int:
    most = int(ADAPTIVE.get(norm, 0.0) * steps)
    return min(most, max(steps - REFINING.get(norm, 0), FEWEST.get(norm, 0)))


def _descend(search: core.Search, force: Tensor, length: Tensor) -> Tensor:
    rows = search.rows
    rows.mean.lerp_(force, 1 - MOMENTUM)
    ahead = torch.addcmul(rows.away, like(length, force).to(force.dtype), rows.mean)
    return _proximal_in_box(search, ahead, (length * rows.weight).to(force.dtype))


def _proximal_in_box(search: core.Search, away: Tensor, by: Tensor) -> Tensor:
    """Return argmin over z of ||z - away||_2^2 / 2 + by * ||z||, for each sample; by [n]."""
    kind = search.threat.norm
    if kind == "l0":
        return _sparse(search, away, by)
    if kind == "linf":  # what a projection on the ball of the dual norm leaves (Moreau)
        return away - ops.project_l1(away, torch.zeros_like(away), by * away[0].numel(), NO_BOX)
    if kind == "l2":
        return shorten_(away, by)
    return away.abs().sub_(like(by, away)).clamp_min_(0.0).copysign_(away)


def _sparse(search: core.Search, away: Tensor, by: Tensor) -> Tensor:
    """Return it inside the box for L0: the coordinates that gain enough, fewer than before in refining."""
    x = search.x.to(away.dtype)
    further = x + away
    inside = further.clamp(*search.threat.box) - x
    gain = inside * (2 * away - inside)
    worth = gain > like(2 * width(search.threat) * by, gain)
    count = worth.flatten(1).sum(1).to(search.best.rank.dtype)
    if search.rows.refining:
        count = count.minimum(search.best.distance - 1).clamp_min_(0.0)
    return ops.project_l0(further, x, count, search.threat.box).sub_(x)
