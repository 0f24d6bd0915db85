"""Projected gradient descent (Madry et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses
from fastadv.attacks.core import AttackResult, Common, StepSize, run, takes_common
from fastadv.attacks.methods.ascent import Steps, ascent, step_size_for
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.threat import Threat


@takes_common
def pgd(
    model: Model | Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: StepSize | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: losses.Loss = "ce",
    stop_early: bool = True,
    seed: int = 0,
    **common: Unpack[Common],
) -> AttackResult:
    """Maximize loss(model(z), y) over z in ball and box, by steepest ascent and projection from a random
    start.

    z <- project(z + step_size * ascent direction), where the direction is that of the threat's norm: the sign
    of the gradient for Linf, the gradient over its length for L2 (Madry et al. 2018, equation 2 and section
    4). The strongest of all points met is kept, not the last.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is left as it is.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; infinite only with a step_size and
            `random_start=False`.
        steps: moves in each restart; 0 returns the start.
        step_size: a number or [B], in input units (L0: coordinates); None is 2.5 * radius / steps, as in
            Madry et al.
        restarts: attempts from different random points; the best of each sample is kept.
        random_start: start at a random point of ball and box; otherwise the first restart starts at x.
        loss: "ce", "margin", "dlr", "cw", "bce", or a function (logits, y, targets) -> [B], maximized.
        stop_early: leave a sample at its first success; otherwise return its strongest point.
        seed: of the random starts.
        common: targets, criterion, mask, eot and ids, as in `fastadv.attacks.Common`.

    Raises InputError on wrong input, naming it.
    """
    losses.check_loss(loss)
    rule = ascent(steps, step_size_for(threat, x, steps, 2.5, step_size), random_start)
    return run(
        model,
        x,
        y,
        threat,
        rule,
        rows=Steps,
        loss=loss,
        restarts=restarts,
        stop_early=stop_early,
        seed=seed,
        **common,
    )
