"""PDGD, primal-dual gradient descent (Matyasko and Chau 2021)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import like, positive, unit
from fastadv.attacks.methods.primal_dual import Displacements, primal_dual
from fastadv.threat import Threat

FIRST_WEIGHT, FIRST_STEP, LAST_STEP, MOMENTUM = 0.3, 1.0, 0.01, 0.5


@core.takes_common(norms=("l2",), steps=1)
def pdgd(
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
    """Minimize weight * ||d||_2 - loss(x + d), by gradient descent with momentum on this Lagrangian.

    d <- d + a * m, clipped to the box, where m is a moving mean of g - weight * d / ||d||, and g the loss's
    gradient at length 1, or 0 at a success. The weight, which is the dual variable, rises at successes and
    falls elsewhere (Matyasko and Chau 2021). As in `pdpgd`, it moves in its logarithm, steps are in units of
    the least distance so far and fall along a cosine, and the first 30 % of the steps ascend the
    cross-entropy, the others the margin.

    Args:
        step_size: > 0, the first step, in units of the least distance of a success so far, at most the
            width of the box; None is 1.
        weight: > 0, the first weight of the distance; None is 0.3.
        loss: "margin", "ce", "dlr", "cw", or a function (logits, y, targets) -> [B], ascended throughout;
            None is the cross-entropy and then the margin, or the margin of a criterion.
    """
    step_size = positive("step_size", step_size, FIRST_STEP)
    weight = positive("weight", weight, FIRST_WEIGHT)
    if loss is not None:
        losses.check_loss(loss)

    def rule(search: core.Search) -> None:
        primal_dual(
            search, _descend, steps=steps, step_size=step_size, last_step=LAST_STEP, weight=weight, loss=loss
        )

    return core.run(model, x, y, threat, rule, rows=Displacements, minimum=True, **common)


def _descend(search: core.Search, force: Tensor, length: Tensor) -> Tensor:
    rows = search.rows
    pull = like(rows.weight, force).to(force.dtype) * unit(rows.away)
    rows.mean.lerp_(force - pull, 1 - MOMENTUM)
    return torch.addcmul(rows.away, like(length, force).to(force.dtype), rows.mean)
