"""Fast gradient sign method (Goodfellow, Shlens, Szegedy 2014)."""

from torch import Tensor

from fastadv import losses
from fastadv.attacks._loop import ascend, run
from fastadv.attacks._result import AttackResult
from fastadv.attacks._steps import has_finite_radius
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.errors import InputError
from fastadv.threat import Threat


def fgsm(
    model: Model | Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    restarts: int = 1,
    random_start: bool = False,
    targets: Tensor | None = None,
    loss: losses.Loss = "ce",
    stop_early: bool = True,
    seed: int = 0,
    ids: Tensor | None = None,
) -> AttackResult:
    """One step of steepest ascent, as long as the radius: max <g, d> over ||d|| <= radius, for the loss gradient g at x.

    For Linf this is x + radius * sign(g) (Goodfellow et al. 2014, section 3), clipped to the box; for L2 the step goes
    along g, for L1 and L0 into the coordinates of the largest gain. x_adv is the stepped point, also where it held.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is left as it is.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: Linf, L2, L1 or L0 with a finite radius (a number or [B]), in input units.
        restarts: attempts; the first starts at x, the others at random points. The best of each sample is kept.
        random_start: start the first at a random point too.
        targets: int [B]; ascend towards these classes instead of away from y.
        loss: "ce", "margin", "dlr", "cw", or a function (logits, y, targets) -> [B], maximised.
        stop_early: leave a sample at its first success; otherwise return its strongest point.
        seed, ids: randomness depends on the seed and on each sample's number (default 0 to B - 1) alone.

    Raises InputError on wrong input, naming it.
    """
    if not has_finite_radius(threat):
        raise InputError(
            "radius: expected a finite one, which is the length of the step, got an infinite one; use pgd with a step_size"
        )
    return run(
        model, x, y, threat, ascend, steps=1, step_size=threat.default_step_size(1), restarts=restarts, random_start=random_start,
        targets=targets, loss=loss, stop_early=stop_early, seed=seed, ids=ids, keep_start=False,
    )  # fmt: skip
