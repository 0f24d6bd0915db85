"""Steepest ascent inside the ball: fgsm, bim, pgd and mim."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv._checks import check_number
from fastadv.attacks import core
from fastadv.attacks.core.problem import StepSize, check_threat
from fastadv.attacks.core.record import Steps
from fastadv.attacks.methods.ascent import ascent, step_size_for
from fastadv.attacks.methods.geometry import like
from fastadv.errors import InputError
from fastadv.threat import Threat


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
            length that the paper allows.

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
        model, x, y, threat, rule, rows=Steps, loss=loss, restarts=restarts, stop_early=stop_early,
        seed=seed, from_x=not random_start, **common,
    )  # fmt: skip


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
        steps: moves in each restart; 0 returns the start. 40 as in the paper on MNIST.
        step_size: a number or [B], in input units (L0: coordinates); None is 2.5 * radius / steps, as in the
            paper.

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
        model, x, y, threat, rule, rows=Steps, loss=loss, restarts=restarts, stop_early=stop_early,
        seed=seed, from_x=not random_start, **common,
    )  # fmt: skip


class _Rows(Steps):
    momentum: Tensor


@core.registered(tolerance=1.25, paper="Dong et al. 2018")
@core.tested(quick={"steps": 10})
@core.takes_common
def mim(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 10,
    step_size: StepSize | None = None, decay: float = 1.0, restarts: int = 1, random_start: bool = False,
    loss: losses.Loss = "ce_sharp", stop_early: bool = True, seed: int = 0,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by ascent along a momentum of gradients.

    m <- decay * m + g / ||g||_1, each sample by its own norm; z <- project(z + step_size * ascent direction
    of m). A gradient of zero adds nothing to its sample's momentum. The strongest of all
    points met is kept, not the last.

    Its adversarial examples transfer better to other models with gradient rules, and without `stop_early`
    (docs/transfer.md).

    Args:
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; infinite only with a step_size.
        steps: moves in each restart; 0 returns the start. 10 as in the paper.
        step_size: a number or [B], in input units (L0: coordinates); None is radius / steps.
        decay: weight of the momentum so far, finite and >= 0; 1 as in the paper, 0 is `bim`.

    Example:
        >>> out = fa.attacks.mim(model, x, y, fa.Linf(0.3), steps=10)
        >>> bool(out.success.all())
        True

    Source:
        Dong et al. 2018, "Boosting Adversarial Attacks with Momentum" (arXiv 1710.06081), equations 6 and 7.
    """
    check_number("decay", decay, 0)
    size = step_size_for(threat, x, steps, 1.0, step_size)
    rule = ascent(steps, size, random_start, Momentum(decay), shorten=step_size is None)
    return core.run(
        model, x, y, threat, rule, rows=_Rows, loss=loss, restarts=restarts, stop_early=stop_early, seed=seed,
        from_x=not random_start, **common,
    )  # fmt: skip


@dataclass(frozen=True)
class Momentum:
    """The gradients so far over their sums of absolutes, each `decay` times less than the next."""

    decay: float

    def __call__(self, search: core.Search[_Rows], gradient: Tensor) -> Tensor:
        # divided by its largest element first: the sum of a tiny or huge gradient leaves the format
        top = like(ops.largest(gradient), gradient)
        unit = torch.where(top > 0, gradient / top, 0.0)
        unit /= unit.abs().sum(tuple(range(1, unit.ndim)), keepdim=True).clamp_min(1.0)
        before = vars(search.rows).get("momentum")
        search.rows.momentum = unit if before is None else before.mul_(self.decay).add_(unit)
        momentum: Tensor = search.rows.momentum
        return momentum
