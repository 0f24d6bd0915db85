"""PDGD, primal-dual gradient descent (Matyasko and Chau 2021)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses
from fastadv.attacks import _primal_dual, core
from fastadv.attacks.methods.adam import adam
from fastadv.attacks.methods.geometry import like, positive, unit
from fastadv.attacks.methods.primal_dual import RATIO, STEP, Lagrangian, inside, primal_dual
from fastadv.threat import Threat

EPSILON = 1e-8
# of the "fastadv" variant
FIRST_WEIGHT, FIRST_STEP, LAST_STEP = 0.3, 1.0, 0.01


@core.registered(kind="minimum", paper="Matyasko and Chau 2021")
@core.tested(quick={"steps": 30}, oracle={"steps": 150})
@core.takes_common(norms=("l2",), steps=1)
def pdgd(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 500,
    variant: core.Variant = "fastadv", step_size: float | None = None, weight: float | None = None,
    loss: losses.Loss | None = None, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Minimize weight * ||d||_2 + softplus(-loss(x + d)), by gradient descent on this Lagrangian.

    Adam moves d, which is clipped to the box, with a step that falls to a hundredth of the first. The weight,
    which is the dual variable, moves in its logarithm, rises at successes and falls elsewhere; both weights
    add up to 1, and a moving mean of them counts. What the paper leaves open is as in adv-lib.

    Args:
        steps: gradients for each sample, an integer >= 1; 500 as in adv-lib.
        step_size: the first step, > 0, in units of the least distance of a success so far, at most the width
            of the box; None is 1. In "published" it is in widths of the box, and None is 0.1.
        weight: the first weight of the distance, > 0; None is 0.3. In "published" it is divided by that of
            the loss, and None is 0.01.

    Source:
        Matyasko and Chau 2021, "PDPGD: Primal-Dual Proximal Gradient Descent Adversarial Attack" (arXiv
        2106.01538).
    """
    published = variant == "published"
    step_size = positive("step_size", step_size, STEP if published else FIRST_STEP)
    weight = positive("weight", weight, RATIO if published else FIRST_WEIGHT)

    def rule(search: core.Search) -> None:
        primal_dual(search, _descend, steps=steps, step_size=step_size, ratio=weight, loss=loss)

    def ours(search: core.Search) -> None:
        _primal_dual.primal_dual(
            search, _primal_dual.descend_with_momentum, steps=steps, step_size=step_size, last_step=LAST_STEP,
            weight=weight, loss=loss,
        )  # fmt: skip

    rows = Lagrangian if published else _primal_dual.Displacements
    return core.run(model, x, y, threat, rule if published else ours, rows=rows, minimum=True, **common)


def _descend(search: core.Search[Lagrangian], gradient: Tensor, step_size: float, step: int) -> Tensor:
    rows = search.rows
    share = like(rows.share, gradient).to(gradient.dtype)
    slope = share * unit(rows.away) + (1 - share) * gradient
    return inside(search, rows.away - step_size * adam(rows, slope, step, EPSILON))
