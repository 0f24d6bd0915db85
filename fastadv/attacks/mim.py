"""Momentum iterative method (Dong et al. 2018)."""

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_number
from fastadv.attacks._loop import Rule, State, largest, run
from fastadv.attacks._problem import Problem, StepSize
from fastadv.attacks._result import AttackResult
from fastadv.attacks._steps import step_size_for
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.threat import Threat


def mim(
    model: Model | Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: StepSize | None = None,
    decay: float = 1.0,
    restarts: int = 1,
    random_start: bool = False,
    targets: Tensor | None = None,
    loss: losses.Loss = "ce",
    stop_early: bool = True,
    seed: int = 0,
    ids: Tensor | None = None,
) -> AttackResult:
    """max loss(model(z), y) over z in ball and box, by ascent along a momentum of gradients.

    m <- decay * m + g / ||g||_1, each sample by its own norm; z <- project(z + step_size * ascent direction
    of m) (Dong et al. 2018, equations 6 and 7). A gradient that is zero or not finite adds nothing to its
    sample's momentum. The strongest of all points met is kept, not the last.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is left as it is.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; infinite only with a step_size.
        steps: moves in each restart; 0 returns the start.
        step_size: a number or [B], in input units (L0: coordinates); None is radius / steps.
        decay: weight of the momentum so far, finite and >= 0; 0 is `bim`.
        restarts: attempts; the first starts at x, the others at random points. Each sample's best is kept.
        random_start: start the first at a random point too.
        targets: int [B]; ascend towards these classes instead of away from y.
        loss: "ce", "margin", "dlr", "cw", or a function (logits, y, targets) -> [B], maximised.
        stop_early: leave a sample at its first success; otherwise return its strongest point.
        seed, ids: randomness depends on the seed and on each sample's number (default 0 to B - 1) alone.

    Raises InputError on wrong input, naming it.
    """
    check_number("decay", decay, 0)
    return run(
        model, x, y, threat, _rule(decay), steps=steps,
        step_size=step_size_for(threat, steps, 1.0, step_size), restarts=restarts,
        random_start=random_start, targets=targets, loss=loss, stop_early=stop_early, seed=seed, ids=ids,
    )  # fmt: skip


def _rule(decay: float) -> Rule:
    def accumulate(
        given: Problem, x_adv: Tensor, gradient: Tensor, step_size: StepSize, state: State
    ) -> State:
        # divided by its largest element first: the sum of a tiny or huge gradient leaves the format
        top = largest(gradient)
        unit = torch.where((top > 0) & top.isfinite(), gradient / top, 0.0)
        unit /= unit.abs().sum(tuple(range(1, unit.ndim)), keepdim=True).clamp_min(1.0)
        momentum = state[0].mul_(decay).add_(unit) if state else unit
        given.threat.step_(x_adv, momentum, given.x, step_size)
        return (momentum,)

    return accumulate
