"""Projected gradient descent (Madry et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses
from fastadv.attacks import core
from fastadv.attacks.core.record import Steps
from fastadv.attacks.methods.ascent import ascent, step_size_for
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize


@core.registered(random=True, paper="Madry et al. 2018")
@core.tested(quick={"steps": 10})
@core.takes_common
def pgd(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 40,
    step_size: StepSize | None = None, restarts: int = 1, random_start: bool = True,
    loss: losses.Loss = "ce_sharp", stop_early: bool = True, seed: int = 0,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by projected steepest ascent from a random start.

    z <- project(z + step_size * ascent direction), where the direction is that of the threat's norm: the sign
    of the gradient for Linf, the gradient over its length for L2. The strongest of all points met is kept,
    not the last. Misclassified x come back unchanged: to train, take `fastadv.train.craft`.

    Args:
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; infinite only with a step_size and
            `random_start=False`.
        steps: moves in each restart; 0 returns the start. 40 as in the paper on MNIST. From 50 on, a CPU
            leaves out those that would repeat earlier ones (`cycled` of the result).
        step_size: a number or [B], in input units (L0: coordinates); None is 2.5 * radius / steps, as in the
            paper. With `eot` > 1 they fall from two radii to a fiftieth: what draws add averages out.

    Example:
        >>> out = fa.attacks.pgd(model, x, y, fa.Linf(0.3), steps=10, restarts=2)
        >>> bool(out.success.all()), bool((out.distance <= 0.3001).all())
        (True, True)

    Source:
        Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks" (arXiv 1706.06083),
        equation 2 and section 4.
    """
    size = step_size_for(threat, x, steps, 2.5, step_size)
    rule = ascent(steps, size, random_start, shorten=step_size is None)
    return core.run(
        model, x, y, threat, rule, rows=Steps, steps=steps, loss=loss, restarts=restarts,
        stop_early=stop_early, seed=seed, from_x=not random_start, **common,
    )  # fmt: skip
