"""Softmax regression: one linear layer."""

import math

import torch
from torch import Tensor, nn

from fastadv.models._common import check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")


class SoftmaxRegression(nn.Module):
    """A linear classifier: logits W x + b over the flattened image.

    Called with x [B, `*shape`] in [0, 1], it returns logits [B, K].

    Args:
        shape: of one image, without the batch.
        classes: the number of classes K.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another shape.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 4: "shallow softmax".
    """

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
