"""Basic iterative method (Kurakin, Goodfellow, Bengio 2017)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses
from fastadv.attacks import core
from fastadv.attacks.core.record import Steps
from fastadv.attacks.methods.ascent import ascent, step_size_for
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize

# the length of all steps together, in radii; the paper takes min(radius + 4, 1.25 radius) steps of 1 of 255
WAY = 1.25


@core.registered(tolerance=1.25, paper="Kurakin et al. 2017")
@core.tested(quick={"steps": 10})
@core.takes_common
def bim(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 10,
    step_size: StepSize | None = None, restarts: int = 1, random_start: bool = False,
    loss: losses.Loss = "ce_sharp", stop_early: bool = True, seed: int = 0,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by steepest ascent and projection from x itself.

    It is `pgd` without the random start and with steps half as long. The strongest of all points met is kept,
    not the last. The paper treats Linf; the other norms take their own direction of steepest ascent.

    Args:
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; infinite only with a step_size.
        steps: moves in each restart; 0 returns the start. The paper takes min(radius + 4, 1.25 radius), in
            levels of 255: 10 for a radius of 8/255, which is the default here.
        step_size: a number or [B], in input units (L0: coordinates); None is 1.25 * radius / steps, the total
            length that the paper allows; with `eot` > 1 as in `pgd`.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.bim(model, x, y, fa.Linf(0.3), steps=10)
        >>> bool(out.success.all()), bool(fa.Linf(0.3).contains(out.x_adv, x).all())
        (True, True)

    Source:
        Kurakin et al. 2017, "Adversarial Examples in the Physical World" (arXiv 1607.02533), section 2.2.
    """
    size = step_size_for(threat, x, steps, WAY, step_size)
    rule = ascent(steps, size, random_start, shorten=step_size is None)
    return core.run(
        model, x, y, threat, rule, rows=Steps, steps=steps, loss=loss, restarts=restarts,
        stop_early=stop_early, seed=seed, from_x=not random_start, **common,
    )  # fmt: skip
