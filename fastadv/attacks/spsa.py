"""Simultaneous perturbation: Adam on gradients estimated from scores (Uesato et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks import core
from fastadv.attacks.core.problem import StepSize
from fastadv.attacks.methods.adam import Moments, adam
from fastadv.attacks.methods.ascent import step_size_for
from fastadv.attacks.methods.estimate import estimated_ascent, steps_for
from fastadv.attacks.methods.geometry import like, positive, width
from fastadv.threat import Threat


@core.registered(knowledge="score", random=True, paper="Uesato et al. 2018", tolerance=1.5)
@core.tested(quick={"queries": 210, "directions": 10}, oracle={"queries": 20200, "directions": 100})
@core.takes_common(norms=("linf",), finite=True, queries=1, directions=1)
def spsa(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int,
    directions: int = 128, probe: float | None = None, step_size: StepSize | None = None,
    loss: losses.Loss | None = None, stop_early: bool = True, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by Adam on estimated gradients, projected.

    The gradient is the mean of (L(z + probe u) - L(z - probe u)) / (2 probe) u over directions u of random
    signs. The start is x.

    Args:
        queries: the most samples that pass the model for each image; at least 2 * directions + 1. The paper
            has another number for each experiment.
        directions: for each step, an integer >= 1; each is probed on both sides.
        probe: how far a probe moves a coordinate, a number > 0. None is 0.01 of the width of the box.
        step_size: a number or [B], of Adam, in input units. None is 2.5 * radius / steps.

    Source:
        Uesato et al. 2018, "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks" (arXiv
        1802.05666), section 4 and algorithm 1.
    """
    steps = steps_for(queries, directions)
    away = positive("probe", probe, 1e-2 * width(threat))
    size = step_size_for(threat, x, steps, 2.5, step_size)

    def move(search: core.Search, gradient: Tensor, points: Tensor, step: int) -> Tensor:
        unit = adam(search.rows, gradient, step)
        length = search.per_sample(size)
        if isinstance(length, Tensor) and length.ndim:
            length = like(length, unit).to(unit.dtype)
        return search.threat.project(points + length * unit, search.x)

    rule = estimated_ascent("spsa", rng.signs, steps, directions, away, loss, move)
    return core.run(
        model, x, y, threat, rule, rows=Moments, loss=loss, stop_early=stop_early, seed=seed, **common
    )
