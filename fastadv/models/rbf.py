"""The shallow RBF network: one template a class, and low confidence wherever none fits."""

import math

import torch
from torch import Tensor, nn

from fastadv.models._common import EachOnItsOwn, check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")

LEAST = 1e-6  # of the distance, so that log-odds are finite at a template itself


class RBF(EachOnItsOwn):
    """A network of radial basis functions: P(class k | x) = exp(-d_k(x)), d_k(x) = sum_i s_ki² (x_i - m_ki)².

    Called with x [B, `*shape`] in [0, 1], it returns logits [B, K]. The paper prints exp((x - m)ᵀ β (x - m)),
    so β must be negative definite; it says no more. Here β_k is diagonal, -s_k², and learned like the
    template m_k. The probabilities do not sum to 1: far from all templates they are all near 0, which no
    softmax over ten classes can express. The logits are the log-odds of these probabilities, log(P / (1 -
    P)): the predicted class is the one of the nearest template, and `loss="bce"` is the likelihood. Train
    with `Standard(loss="bce")`, attack with loss="bce".

    Args:
        shape: of one image, without the batch.
        classes: the number of classes K.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another shape.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 7.
    """

    def __init__(
        self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, *, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape)
        self.shape, size = tuple(shape), math.prod(shape)
        with first_weights(seed):
            self.templates = nn.Parameter(torch.rand(classes, size))
            self.scales = nn.Parameter(torch.full((classes, size), 2 / math.sqrt(size)))

    def forward(self, x: Tensor) -> Tensor:
        x = check_batch(x, self.shape).flatten(1)[:, None]
        distance = ((x - self.templates) * self.scales).square().sum(2).clamp(min=LEAST)
        return -distance - (-torch.expm1(-distance)).log()
