"""The maxout network for permutation-invariant MNIST."""

import math

import torch
from torch import Tensor, nn

from fastadv._checks import check_count, check_share
from fastadv.models._common import check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")

INITIAL_RANGE = 0.005  # first weights are drawn from ±this, first biases are 0, as in pylearn2


class Masked(nn.Dropout):
    """Dropout of inputs as in pylearn2: what is kept is not enlarged, in training or afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 - self.p) if self.training else x


def largest_piece(x: Tensor, pieces: int) -> Tensor:
    """Return the largest of each unit's pieces: [B, pieces · U, ...] -> [B, U, ...].

    Piece p of unit u is p · U + u. Where several are the largest, they share the gradient.
    """
    return torch.unflatten(x, 1, (pieces, x.shape[1] // pieces)).amax(1)


def draw_small(model: nn.Module) -> None:
    """First weights as in pylearn2's recipes."""
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.uniform_(weight, -INITIAL_RANGE, INITIAL_RANGE)
        else:
            nn.init.zeros_(weight)


class Maxout(nn.Module):
    """Layers of units that are each the largest of `pieces` linear functions, and a linear top.

    Called with x [B, `*shape`] in [0, 1], it returns logits [B, K]. With units=240 it is the network of
    Goodfellow et al. 2013 (94 test errors on MNIST); units=1600 is the one that Goodfellow et al. 2014 train
    on adversarial examples to 0.782%. pylearn2's `mnist_pi.yaml` also bounds each unit's incoming weights:
    `Optimization(max_norm=1.9365)`.

    Args:
        shape: of one image, without the batch.
        classes: the number of classes K.
        units: of each layer, >= 1.
        pieces: linear functions of each unit, >= 1.
        layers: of maxout units, >= 1.
        input_dropout: the probability of dropping an input in training, in [0, 1); 0.2 as in `mnist_pi.yaml`.
        dropout: the probability of dropping a unit in training, in [0, 1); 0.5 as in `mnist_pi.yaml`.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another shape, units, pieces or layers are below 1, or a dropout is outside [0, 1).

    Source:
        Goodfellow et al. 2013 (arXiv 1302.4389), section 5.1; Goodfellow et al. 2014 (arXiv 1412.6572).
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
        *,
        units: int = 240,
        pieces: int = 5,
        layers: int = 2,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_sizes(classes, shape)
        for name, count in (("units", units), ("pieces", pieces), ("layers", layers)):
            check_count(name, count, 1)
        for name, share in (("input_dropout", input_dropout), ("dropout", dropout)):
            check_share(name, share, zero=True)
        self.shape, self.pieces = tuple(shape), pieces
        sizes = [math.prod(shape), *[units] * layers]
        with first_weights(seed):
            self.hidden = nn.ModuleList(nn.Linear(size, pieces * units) for size in sizes[:-1])
            self.linear = nn.Linear(units, classes)
            draw_small(self)
        self.mask, self.dropout = Masked(input_dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mask(check_batch(x, self.shape).flatten(1))
        for layer in self.hidden:
            x = self.dropout(largest_piece(layer(x), self.pieces))
        logits: Tensor = self.linear(x)
        return logits
