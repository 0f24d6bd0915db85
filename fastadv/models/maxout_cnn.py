"""The convolutional maxout network for CIFAR-10."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from fastadv._checks import check_count, check_share
from fastadv.errors import InputError
from fastadv.models._common import check_batch, check_sizes, first_weights
from fastadv.models.maxout import Masked, draw_small, largest_piece

torch.fx.wrap("check_batch")

# kernel, padding and pooling of each convolution; pooling has stride 2, and windows over the edge count
LAYERS = ((8, 4, 4), (8, 3, 4), (5, 3, 2))


def _pooled(size: int) -> int:
    """Return the side of the last maps for images of that side; below 1 where a layer has nothing to see."""
    for kernel, padding, pool in LAYERS:
        size = size + 2 * padding - kernel + 1
        if size < pool:
            return 0
        size = -((pool - size) // 2) + 1
    return size


class MaxoutCNN(nn.Module):
    """Three maxout convolutions of two pieces with max pooling, a maxout layer of five pieces, a linear top.

    Called with x [B, C, H, W] in [0, 1], it returns logits [B, K]. The defaults are those of pylearn2's
    `cifar10.yaml` (9.45% test error with shifts and flips): kernels of 8, 8 and 5, maps `width`, 2 · width
    and 2 · width, then `units`. There, images were contrast-normalized and whitened, kernels were bounded
    (0.9, then 1.9365: see `Optimization(max_norm=)`), and convolutions learned at a twentieth of the rate.

    Args:
        shape: (C, H, W) of one image, at least 10x10.
        classes: the number of classes K.
        width: maps of the first convolution.
        units: of the last maxout layer.
        input_dropout: the probability of dropping an input in training, in [0, 1).
        dropout: the probability of dropping an input of later layers in training, in [0, 1).
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another shape, images are below 10x10, sizes below 1, or a dropout is outside [0,
            1).

    Source:
        Goodfellow et al. 2013 (arXiv 1302.4389), section 5.2.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        width: int = 96,
        units: int = 500,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, width)
        check_count("units", units, 1)
        for name, share in (("input_dropout", input_dropout), ("dropout", dropout)):
            check_share(name, share, zero=True)
        rows, columns = (_pooled(size) for size in shape[1:])
        if min(rows, columns) < 1:
            raise InputError(
                f"expected images of at least 10x10, got shape {tuple(shape)}; use maxout for smaller ones"
            )
        self.shape = tuple(shape)
        maps = [shape[0], width, 2 * width, 2 * width]
        with first_weights(seed):
            self.convolutions = nn.ModuleList(
                nn.Conv2d(before, 2 * after, kernel, padding=padding)
                for before, after, (kernel, padding, _) in zip(maps[:-1], maps[1:], LAYERS, strict=True)
            )
            self.hidden = nn.Linear(maps[-1] * rows * columns, 5 * units)
            self.linear = nn.Linear(units, classes)
            draw_small(self)
        self.mask, self.dropout = Masked(input_dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mask(check_batch(x, self.shape))
        for layer, (_, _, pool) in zip(self.convolutions, LAYERS, strict=True):
            x = max_pool2d(largest_piece(layer(x), 2), pool, stride=2, ceil_mode=True)
            x = self.dropout(x)
        x = self.dropout(largest_piece(self.hidden(x.flatten(1)), 5))
        logits: Tensor = self.linear(x)
        return logits
