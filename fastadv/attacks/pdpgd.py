"""PDPGD, primal-dual proximal gradient descent (Matyasko and Chau 2021)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import like, positive, shorten_, width
from fastadv.attacks.methods.primal_dual import Displacements, primal_dual
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat

FIRST_WEIGHT = {"linf": 0.3, "l2": 0.3, "l1": 0.1, "l0": 0.3}
FIRST_STEP = {"linf": 1.0, "l2": 1.0, "l1": 3.0, "l0": 30.0}
LAST_STEP = {"linf": 0.01, "l2": 0.01, "l1": 0.01, "l0": 1.0}
MOMENTUM = 0.5
# the share of the steps that explore by proximal Adam; in L0 of those beyond what refining takes at least
REFINING = 100
ADAPTIVE = {"l2": 0.6, "l1": 0.5, "l0": 0.6}


@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def pdpgd(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float | None = None,
    weight: float | None = None,
    loss: losses.Loss | None = None,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Minimize weight * ||d|| - loss(x + d): gradient steps on the loss, proximal steps on the distance.

    d <- prox(d + a * m), where m is a moving mean of the loss's gradient in a fixed size, and prox the least
    of weight * ||z|| + ||z - d||_2^2 / (2 a), followed by a clip to the box; for L0 the box is part of it.
    The weight, which is the dual variable, rises at successes and falls elsewhere (Matyasko and Chau 2021,
    algorithm 1). Unlike there, it moves in its logarithm, steps are in units of the least distance so far and
    fall along a cosine, and the first 30 % of the steps ascend the cross-entropy, the others the margin. In
    L0 these others always look for fewer coordinates than the best success has. In Linf the weight counts for
    each coordinate.

    In L2 and L0 the first 60 % of the steps, in L1 the first half, explore by proximal Adam, as adv-lib does,
    in L0 with the operator of L1 and not the last 100. It moves coordinates of small gradients as far as
    others, and so finds its way on adversarially trained networks. The other steps refine the nearest success
    as above.

    Args:
        step_size: > 0, the first step, in units of the least distance of a success so far, at most the
            width of the box; in L0 always of that width. None is 1, 3 in L1 and 30 in L0. Except in Linf it
            is the first of those that refine.
        weight: > 0, the first weight of the distance; None is 0.3, and 0.1 in L1. Likewise.
        loss: "margin", "ce", "dlr", "cw", or a function (logits, y, targets) -> [B], ascended throughout;
            None is the margin, in Linf at first the cross-entropy.
    """
    step_size = positive("step_size", step_size, FIRST_STEP[threat.norm])
    weight = positive("weight", weight, FIRST_WEIGHT[threat.norm])
    if loss is not None:
        losses.check_loss(loss)

    def descend(search: core.Search, force: Tensor, length: Tensor) -> Tensor:
        rows = search.rows
        rows.mean.lerp_(force, 1 - MOMENTUM)
        ahead = torch.addcmul(rows.away, like(length, force).to(force.dtype), rows.mean)
        return _proximal(search, ahead, (length * rows.weight).to(force.dtype))

    share = ADAPTIVE.get(threat.norm, 0.0)
    if threat.norm == "l0":
        share = min(share, max(1 - REFINING / steps, 0.0))

    def rule(search: core.Search) -> None:
        primal_dual(
            search, descend, steps=steps, step_size=step_size, last_step=LAST_STEP[threat.norm],
            weight=weight, loss=loss, adaptive=share,
        )  # fmt: skip

    return core.run(model, x, y, threat, rule, rows=Displacements, minimum=True, **common)


def _proximal(search: core.Search, away: Tensor, by: Tensor) -> Tensor:
    """Return argmin over z of ||z - away||_2^2 / 2 + by * ||z||, for each sample; by [n]."""
    kind = search.threat.norm
    if kind == "l0":
        return _sparse(search, away, by)
    if kind == "linf":  # what a projection on the ball of the dual norm leaves (Moreau)
        rest = ops.project_l1(away, torch.zeros_like(away), by * away[0].numel(), NO_BOX)
        return away.sub_(rest)
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
