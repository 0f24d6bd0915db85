"""Linear classifiers: softmax regression, and logistic regression with two logits."""

import math

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models._common import check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")


class SoftmaxRegression(nn.Module):
    """Logits W x + b over the flattened image."""

    def __init__(
        self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, *, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape)
        self.shape = tuple(shape)
        with first_weights(seed):
            self.linear = nn.Linear(math.prod(shape), classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(check_batch(x, self.shape).flatten(1))
        return logits


class LogisticRegression(nn.Module):
    """A binary linear classifier, P(y = 1 | x) = sigmoid(w x + b).

    The score s = w x + b is returned as the logits (-s/2, s/2): their softmax is (1 - sigmoid(s),
    sigmoid(s)), so cross-entropy is softplus(-s) for label 1 and softplus(s) for label 0, and the margin is
    `|s|`. So whatever attacks a model of K classes attacks it too.
    """

    def __init__(
        self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 2, *, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape)
        if classes != 2:
            raise InputError(
                f"logistic regression tells 2 classes apart, got classes={classes}; use softmax for more"
            )
        self.shape = tuple(shape)
        with first_weights(seed):
            self.linear = nn.Linear(math.prod(shape), 1)

    def forward(self, x: Tensor) -> Tensor:
        half = self.linear(check_batch(x, self.shape).flatten(1)) / 2
        return torch.cat([-half, half], dim=1)
