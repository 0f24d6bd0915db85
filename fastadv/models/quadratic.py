"""A network of quadratic units."""

import math

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv.models._common import check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")


class Quadratic(nn.Module):
    """Logits V (W x + b)² + c: one layer of units that square their input, and a linear top.

    Called with x [B, `*shape`] in [0, 1], it returns logits [B, K]. Each logit is a quadratic form of x, any
    one of rank up to `units`. Goodfellow et al. 2014 tried quadratic units because, unlike linear ones, they
    need not extrapolate linearly; the paper does not define them, so this form is ours.

    Args:
        shape: of one image, without the batch.
        classes: the number of classes K.
        units: of the hidden layer, >= 1.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another shape, or units are below 1.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 7.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
        *,
        units: int = 240,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_sizes(classes, shape)
        check_count("units", units, 1)
        self.shape = tuple(shape)
        with first_weights(seed):
            self.hidden = nn.Linear(math.prod(shape), units)
            self.linear = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.hidden(check_batch(x, self.shape).flatten(1)).square())
        return logits
