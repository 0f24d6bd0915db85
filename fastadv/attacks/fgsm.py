"""Fast gradient sign method (Goodfellow, Shlens, Szegedy 2014)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses
from fastadv.attacks import core
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.threat.checks import check_threat


@core.registered(tolerance=1.25, paper="Goodfellow et al. 2014")
@core.takes_common
def fgsm(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, restarts: int = 1,
    random_start: bool = False, loss: losses.Loss = "ce_sharp", stop_early: bool = True, seed: int = 0,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Take one step of steepest ascent: max <g, d> over ||d|| <= radius, for the loss gradient g at x.

    For Linf this is x + radius * sign(g), clipped to the box; for L2 the step goes along g, for L1 and L0
    into the coordinates of the largest gain. x_adv is the stepped point, also where it held.

    Args:
        threat: Linf, L2, L1 or L0 with a finite radius (a number or [B]), in input units.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.fgsm(model, x, y, fa.Linf(0.3))
        >>> tuple(out.x_adv.shape), bool(out.success.all())
        ((8, 1, 8, 8), True)

    Source:
        Goodfellow et al. 2014, "Explaining and Harnessing Adversarial Examples" (arXiv 1412.6572), section 3.
    """
    check_threat(threat)
    if not threat.finite:
        raise InputError(
            "radius: expected a finite one, which is the length of the step, got an infinite one; "
            "use pgd with a step_size"
        )
    step_size = threat.default_step_size(1)

    def rule(search: core.Search) -> None:
        # the start is no candidate: x_adv is the stepped point, also where that lowers the loss
        points = search.start(random_start)
        gradient = search.direction(points)
        search.finish(search.threat.step_(points, gradient, search.x, search.per_sample(step_size)))

    return core.run(
        model, x, y, threat, rule, loss=loss, restarts=restarts, stop_early=stop_early, seed=seed,
        from_x=not random_start, **common,
    )  # fmt: skip
