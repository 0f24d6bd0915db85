"""Adversarial training of a linear classifier in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import fastadv as fa
from fastadv.errors import InputError
from papers.goodfellow2014.recipes.losses import check_share, mean_loss

# exponent of the threat's norm: exponent of its dual norm
DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}


@dataclass(frozen=True)
class RobustLogistic:
    """The mean of `softplus(radius · |w| - y (w x + b))` for y = -1, 1, with the dual norm of w (section 5).

    This is the cross-entropy at the worst point of the ball, exactly, so no example is crafted and a step
    costs that of standard training. For L∞ it equals FGSM training. Unlike L1 decay (`WeightDecayL1`), the
    penalty is inside the loss, and fades once the margin is large. As in the paper, only the ball counts:
    where the box cuts it, this is an upper bound. The paper prints `radius · |w|` inside the bracket, which
    is right for y = 1 alone. The model is linear, of two classes; `weight` is that of the clean loss.
    """

    threat: fa.Threat
    weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.threat.norm not in DUAL or not self.threat.finite:
            raise InputError(f"threat: expected fa.Linf, L2 or L1 with a finite radius, got {self.threat}")
        check_share("weight", self.weight)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        reach = self.threat.radius * torch.linalg.vector_norm(_normal(model), DUAL[self.threat.norm])
        logits = model(x)
        # cross-entropy sees the difference of two logits alone, which the attack lessens by `reach`
        worst = mean_loss(logits - reach * one_hot(y, 2), y, self.label_smoothing)
        if self.weight == 0:
            return worst
        return self.weight * mean_loss(logits, y, self.label_smoothing) + (1 - self.weight) * worst


def _normal(model: nn.Module) -> Tensor:
    """Return w, the gradient of the difference of the two logits. InputError for a model without one."""
    # of exactly these classes: one derived from them may compute something else
    if type(model) is fa.models.LogisticRegression:
        return model.linear.weight[0]
    layer = model.linear if type(model) is fa.models.SoftmaxRegression else None
    if layer is None or layer.out_features != 2:
        raise InputError(
            "model: expected a linear one of two classes (fa.models.LogisticRegression, SoftmaxRegression), "
            f"got {type(model).__name__}; use FGSMTraining"
        )
    return layer.weight[1] - layer.weight[0]
