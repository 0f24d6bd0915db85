"""PDGD, primal-dual gradient descent (Matyasko and Chau 2021)."""

from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks import core
from fastadv.attacks.methods.geometry import like, positive, unit
from fastadv.attacks.methods.primal_dual import MOMENTUM, Displacements, primal_dual
from fastadv.threat import Threat

LAST_STEP = 0.01  # over the first


@core.registered(kind="minimum", paper="Matyasko and Chau 2021")
@core.tested(quick={"steps": 30}, oracle={"steps": 150})
@core.takes_common(norms=("l2",), steps=1)
def pdgd(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 500,
    step_size: float = 1.0,
    weight: float = 0.3,
    loss: losses.Loss | None = None,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:
    """Minimize weight * ||d||_2 - loss(x + d), by gradient descent on this Lagrangian.

    Steps along the gradient of the loss, at length 1, less the weighted distance move d, with momentum; it is
    clipped to the box, and the step falls to a hundredth of the first. The weight, which is the dual
    variable, rises at successes and falls elsewhere. The paper's Adam on softplus(-loss) is in adv-lib.

    Args:
        steps: gradients for each sample, an integer >= 1; 500 as in adv-lib.
        step_size: the first step, > 0, in units of the least distance of a success so far, at most the width
            of the box.
        weight: the first weight of the distance, > 0.

    Source:
        Matyasko and Chau 2021, "PDPGD: Primal-Dual Proximal Gradient Descent Adversarial Attack" (arXiv
        2106.01538).
    """
    size, first = positive("step_size", step_size, 1.0), positive("weight", weight, 0.3)

    def rule(search: core.Search) -> None:
        primal_dual(
            search, _descend, steps=steps, step_size=size, last_step=LAST_STEP, weight=first, loss=loss
        )

    return core.run(model, x, y, threat, rule, rows=Displacements, minimum=True, **common)


def _descend(search: core.Search[Displacements], force: Tensor, length: Tensor) -> Tensor:
    """Return the next displacements, along a moving mean of the force less the weighted distance."""
    rows = search.rows
    pull = like(rows.weight, force).to(force.dtype) * unit(rows.away)
    rows.mean.lerp_(force - pull, 1 - MOMENTUM)
    return torch.addcmul(rows.away, like(length, force).to(force.dtype), rows.mean)
