"""Momentum iterative method (Dong et al. 2018)."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv._checks import check_number
from fastadv.attacks import core
from fastadv.attacks.core.record import Steps
from fastadv.attacks.methods.ascent import ascent, step_size_for
from fastadv.attacks.methods.geometry import like
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize


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
        decay: weight of the momentum so far, finite and >= 0; 1 as in the paper, 0 is `bim` of these steps.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.mim(model, x, y, fa.Linf(0.3), steps=10)
        >>> bool(out.success.all())
        True

    Source:
        Dong et al. 2018, "Boosting Adversarial Attacks with Momentum" (arXiv 1710.06081), equations 6 and 7.
    """
    check_number("decay", decay, 0)
    rule = ascent(
        steps,
        step_size_for(threat, x, steps, 1.0, step_size),
        random_start,
        Momentum(decay),
        step_size is None,
    )
    return core.run(
        model, x, y, threat, rule, rows=_Rows, steps=steps, loss=loss, restarts=restarts,
        stop_early=stop_early, seed=seed, from_x=not random_start, **common,
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
