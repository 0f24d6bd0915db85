"""Adversarial training of a linear classifier in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fastadv.attacks.special.labels import check_index
from fastadv.errors import InputError
from fastadv.models import LogisticRegression, SoftmaxRegression
from fastadv.threat import Threat
from fastadv.train.recipes._common import check_finite, check_objective, logits_at, mean_loss
from fastadv.train.recipes.base import check_images

# exponent of the threat's norm: exponent of its dual norm
DUAL = {float("inf"): 1.0, 2.0: 2.0, 1.0: float("inf")}


@dataclass(frozen=True)
class RobustLogistic:
    """The mean of `softplus(radius · |w| - y (w x + b))` for y = -1, 1, with the dual norm of w.

    This is the cross-entropy at the worst point of the ball, exactly, so no example is crafted and a step
    costs that of standard training: L1 of w for an L∞ threat, L2 for L2, the largest weight for L1. For L∞ it
    equals FGSM training. Unlike L1 decay (`WeightDecayL1`), the penalty is inside the loss, and fades once
    the margin is large. As in the paper, only the ball counts: where the box cuts it, this is an upper bound.
    The model is `LogisticRegression`, `SoftmaxRegression` with two classes, or a Sequential of Flatten and
    Linear with two outputs.

    Args:
        threat: Linf, L2 or L1 with one finite radius, in input units.
        weight: of the loss on clean images, in [0, 1], as in `FGSMTraining`.
        label_smoothing: the share of each label that is spread over both classes, in [0, 1).

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 5, whose printed formula has `radius ·
        |w|` inside the bracket, which is right for y = 1 alone.
    """

    threat: Threat
    weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_finite(self.threat, "the worst point of the ball")
        if self.threat.order not in DUAL:
            raise InputError(
                f"threat: expected fa.Linf, L2 or L1, whose worst point is known in closed form, got "
                f"{type(self.threat).__name__}; use PGDTraining"
            )
        check_objective(self.label_smoothing, weight=self.weight)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x = check_images(self, model, x)
        y = check_index("y", y, len(x), x.device)
        reach = self.threat.radius * torch.linalg.vector_norm(_normal(model), DUAL[self.threat.order])
        logits = logits_at(model, x, y)
        # cross-entropy sees the difference of two logits alone, which the attack lessens by `reach`
        worst = mean_loss(logits - reach * one_hot(y, 2), y, self.label_smoothing)
        if self.weight == 0:
            return worst
        return self.weight * mean_loss(logits, y, self.label_smoothing) + (1 - self.weight) * worst


def _normal(model: nn.Module) -> Tensor:
    """Return w, the gradient of the difference of the two logits. InputError for a model without one."""
    # of exactly these classes: one derived from them may compute something else
    if type(model) is LogisticRegression:
        return model.linear.weight[0]
    parts = list(model) if type(model) is nn.Sequential else []
    layer = model.linear if type(model) is SoftmaxRegression else parts[-1] if parts else None
    flat = all(isinstance(part, nn.Flatten) for part in parts[:-1])
    if not (isinstance(layer, nn.Linear) and flat and layer.out_features == 2):
        raise InputError(
            "model: expected a linear one of two classes (fa.models.LogisticRegression, SoftmaxRegression, "
            f"or a Sequential of Flatten and Linear), got {type(model).__name__}; use FGSMTraining"
        )
    return layer.weight[1] - layer.weight[0]
