"""A small Inception network."""

import torch
from torch import Tensor, nn

from fastadv.models._common import check_sizes, first_weights
from fastadv.models._features import Features

# sixteenths of the channels: those of the 1x1 and of the 3x3 branch of each block, a single number where the
# image is halved
STAGES = ((2, 2), (2, 3), 5, (7, 3), (6, 4), (5, 5), (3, 6), 6, (11, 10), (11, 10))
STEM = 6


def _convolution(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution, BatchNorm and ReLU."""
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class _Branches(nn.Module):
    """Two ways through a block, whose outputs are put beside each other."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class Inception(Features):
    """The small Inception network.

    Called with x [B, C, H, W] in [0, 1], it returns logits [B, K]. Eight blocks of a 1x1 and a parallel 3x3
    convolution; twice a convolution with stride 2 and a parallel max-pool halve the image. With the width 16,
    three channels and ten classes it has the 1,649,402 parameters of the paper, where each channel has a
    bias, here BatchNorm's, and the scales of BatchNorm. Because of the mean over the image, images may have
    another height and width than `shape`.

    Args:
        shape: (C, H, W) of one image.
        classes: the number of classes K.
        width: a sixth of the channels of the first convolution; all others follow.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another rank or number of channels.

    Source:
        Zhang et al. 2017 (arXiv 1611.03530).
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        width: int = 16,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, width)
        self.channels = shape[0]
        with first_weights(seed):
            channels = STEM * width
            layers: list[nn.Module] = [_convolution(shape[0], channels, 3)]
            for stage in STAGES:
                if isinstance(stage, int):
                    halved = _convolution(channels, stage * width, 3, stride=2)
                    layers.append(_Branches(halved, nn.MaxPool2d(3, 2, padding=1)))
                    channels += stage * width
                else:
                    narrow, wide = (part * width for part in stage)
                    branches = _convolution(channels, narrow, 1), _convolution(channels, wide, 3)
                    layers.append(_Branches(*branches))
                    channels = narrow + wide
            self.features = nn.Sequential(*layers)
            self.linear = nn.Linear(channels, classes)
            self.draw_weights()
