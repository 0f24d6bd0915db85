"""HAT: TRADES with helper examples beyond the ball, labeled by a standard network."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv._checks import check_number
from fastadv.engine import Frozen
from fastadv.errors import InputError
from fastadv.train.recipes._common import check_positive, logits_at
from fastadv.train.recipes._followers import follower
from fastadv.train.recipes.trades import TRADES


@dataclass(frozen=True)
class HAT(TRADES):
    """J(x, y) + beta · KL(p(x) || p(x_adv)) + gamma · J(x + far · (x_adv - x), y_helper).

    x_adv is that of TRADES, and y_helper the class that `helper`, a network trained on clean images alone,
    assigns to x_adv. Training on TRADES moves the decision boundary further away than robustness needs; the
    helper examples lie beyond the ball and hold it back, which keeps clean accuracy. They are not clamped to
    the box, and pass in a batch of their own.

    Args:
        label_smoothing: the share of each label that is spread over all classes, in [0, 1); not for the
            helper examples.
        helper: a network trained on clean images alone, on the model's device. It answers in eval mode and is
            never trained.
        gamma: weight of the helper examples, >= 0; 0.5 as in the paper for CIFAR-10.
        far: how far the helper examples are from x, relative to x_adv, > 0; 2 as in the paper.
        others: as in `TRADES`.

    Raises:
        InputError: the helper is no model, gamma < 0, far is not positive, or one of the errors of `TRADES`.

    Source:
        Rade, Moosavi-Dezfooli 2022 (ICLR, Reducing excessive margin to achieve a better accuracy vs.
        robustness trade-off), equation 2.
    """

    beta: float = 2.5
    _: KW_ONLY
    helper: nn.Module | Frozen
    gamma: float = 0.5
    far: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.helper, nn.Module | Frozen):
            raise InputError(
                f"helper: expected a network trained on clean images, got {type(self.helper).__name__}"
            )
        check_number("gamma", self.gamma, 0)
        check_positive("far", self.far)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        with torch.no_grad():
            called = follower(self.helper)(x_adv).argmax(1)
        loss = super().objective(model, x, y, x_adv)
        beyond = logits_at(model, x + self.far * (x_adv - x), y)
        return loss + self.gamma * cross_entropy(beyond, called)
