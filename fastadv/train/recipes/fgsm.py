"""Goodfellow's adversarial objective."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastadv.attacks.core.criterion import Criterion
from fastadv.threat import Threat
from fastadv.train.recipes._common import (
    ascent,
    check_criterion,
    check_objective,
    check_one_radius,
    mixture,
    step_length,
)
from fastadv.train.recipes.base import Crafted


@dataclass(frozen=True)
class FGSMTraining(Crafted):
    """Goodfellow's objective: weight · J(x, y) + (1 - weight) · J(x_adv, y), the mean over the batch.

    x_adv is one step of steepest ascent from x, as long as the radius. For L∞ it is x + radius · sign(∇J),
    clamped to the threat's box. It is computed with the current weights for each batch, and no gradient flows
    through it.

    Args:
        threat: Linf, L2, L1 or L0 with one finite radius, in input units.
        weight: of the clean images, in [0, 1]; 0.5 as in the paper, 0 trains on x_adv alone.
        label_smoothing: that of J, not of the attack, in [0, 1).
        loss: J, "ce" or "bce", as in `Standard`.
        criterion: of a model of other outputs than classes: `fa.attacks.Signs()`, `Share(least)` or
            `Beyond(distance)`, whose `objective` takes the place of the cross-entropy; None is classes.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 6, alpha = 0.5.
    """

    threat: Threat
    weight: float = 0.5
    label_smoothing: float = 0.0
    loss: str = "ce"
    criterion: Criterion | None = None

    def __post_init__(self) -> None:
        check_one_radius(self.threat)
        check_objective(self.label_smoothing, self.loss, self.weight)
        check_criterion(self.criterion, self.label_smoothing, self.loss)
        step_length(self.threat, None)  # there is none for an infinite radius

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        length = step_length(self.threat, None)
        return ascent(model, x, y, self.threat, 1, length, loss=self.loss, criterion=self.criterion)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, self.weight, self.label_smoothing, self.loss, self.criterion)
