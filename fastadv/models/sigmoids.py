"""One yes-or-no answer for each class, so that a model can deny all of them."""

from typing import Any

from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models._common import EachOnItsOwn
from fastadv.models.registry import create


class Sigmoids(EachOnItsOwn):
    """A model whose logits are read as log-odds: P(class k | x) = sigmoid(logit k), each class separately.

    Called with x as `model` takes it, it returns its logits [B, K] unchanged, so the predicted class is that
    of the softmax, and so is what every attack counts as a success. Confidence and the training loss differ:
    train with `Standard(loss="bce")`, attack with loss="bce".

    Args:
        model: a classifier.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), appendix A.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


def sigmoids(
    shape: tuple[int, ...] = (1, 28, 28),
    classes: int = 10,
    *,
    model: str = "maxout",
    seed: int | None = 0,
    **options: Any,
) -> Sigmoids:
    """Return `Sigmoids` on top of the built-in model of that name; `options` go to it."""
    if model in ("sigmoids", "rbf", "ensemble"):
        raise InputError(
            f"model: expected one whose logits are free, got {model!r}, whose logits are those of "
            "probabilities; put sigmoids on another"
        )
    return Sigmoids(create(model, shape=shape, classes=classes, seed=seed, **options))
