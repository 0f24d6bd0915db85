"""Densely connected networks for small images."""

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.models._common import check_sizes, first_weights
from fastadv.models._features import Features


def _convolution(channels: int, width: int, kernel: int) -> nn.Sequential:
    """BatchNorm, ReLU and a convolution that keeps the size."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), convolution)


class _Layer(nn.Module):
    """A 1x1 and a 3x3 convolution, whose output is put beside the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bottleneck = _convolution(channels, 4 * growth, 1)
        self.convolution = _convolution(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.convolution(self.bottleneck(x))], 1)


class DenseNet(Features):
    """DenseNet-BC for 32x32 images, without dropout.

    Called with x [B, C, H, W] in [0, 1], it returns logits [B, K]. Three blocks, in each of which every layer
    sees the output of all layers before it; between them half of the channels and a quarter of the pixels are
    left. With the depth 100, the growth 12, three channels and ten classes it has 769,162 parameters. Because
    of the mean over the image, images may have another height and width than `shape`, from 4x4.

    Args:
        shape: (C, H, W) of one image.
        classes: the number of classes K.
        depth: 6 n + 4, with n layers of two convolutions in each block.
        growth: channels that each layer adds.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another rank or number of channels.

    Source:
        Huang et al. 2017 (arXiv 1608.06993).
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        depth: int = 100,
        growth: int = 12,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, 2)
        check_count("growth", growth, 1)
        if check_count("depth", depth, 10) % 6 != 4:
            raise InputError(f"depth: expected 6 n + 4, such as 22, 40 or 100, got {depth}")
        self.channels = shape[0]
        with first_weights(seed):
            width = 2 * growth
            layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False)]
            for block in range(3):
                if block:
                    layers += [_convolution(width, width // 2, 1), nn.AvgPool2d(2)]
                    width //= 2
                for _ in range((depth - 4) // 6):
                    layers.append(_Layer(width, growth))
                    width += growth
            self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
            self.linear = nn.Linear(width, classes)
            self.draw_weights()
