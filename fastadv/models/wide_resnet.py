"""Wide residual networks for small images."""

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.models._common import (
    Shape,
    activation_layer,
    check_batch,
    check_sizes,
    draw_convolutions,
    first_weights,
)
from fastadv.models.preact_resnet import PreActBlock

torch.fx.wrap("check_batch")

STEM = 16


class _Block(PreActBlock):
    """The block of pre-activation ResNets, the convolution of its shortcut named as in published weights."""

    def __init__(self, channels: int, width: int, stride: int, activation: str, padding: str) -> None:
        super().__init__(channels, width, stride, activation, padding=padding)
        self.convShortcut = None if self.shortcut is None else self.shortcut[0]
        self.shortcut = None

    def added(self, x: Tensor, active: Tensor) -> Tensor:
        return x if self.convShortcut is None else self.convShortcut(active)


class WideResNet(nn.Module):
    """WRN-depth-widen_factor, without dropout (Zagoruyko and Komodakis 2016).

    With three channels and ten classes, WRN-28-10 has 36,479,194 parameters, WRN-34-10 46,160,474. Layer
    names are those of TRADES' code (Zhang et al. 2019), which most papers on adversarial training share, so
    that their weights load; first weights are drawn as there. Because of the mean over the image, images may
    have another height and width than `shape`. The depth is 6 n + 4, with n blocks in each of three stages,
    which have 16, 32 and 64 times `widen_factor` channels; `padding` is that of `PreActResNet18`.
    """

    def __init__(
        self, shape: Shape = (3, 32, 32), classes: int = 10, *, depth: int = 28, widen_factor: int = 10,
        activation: str = "relu", padding: str = "both", seed: int | None = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(classes, shape, STEM)
        check_count("widen_factor", widen_factor, 1)
        if check_count("depth", depth, 10) % 6 != 4:
            raise InputError(f"depth: expected 6 n + 4, such as 16, 28, 34 or 70, got {depth}")
        blocks = (depth - 4) // 6
        width = STEM * widen_factor
        self.channels = shape[0]
        with first_weights(seed):
            self.conv1 = nn.Conv2d(shape[0], STEM, 3, padding=1, bias=False)
            self.block1 = _stage(blocks, STEM, width, 1, activation, padding)
            self.block2 = _stage(blocks, width, 2 * width, 2, activation, padding)
            self.block3 = _stage(blocks, 2 * width, 4 * width, 2, activation, padding)
            self.bn1 = nn.BatchNorm2d(4 * width)
            self.fc = nn.Linear(4 * width, classes)
            draw_convolutions(self)
            nn.init.zeros_(self.fc.bias)
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(check_batch(x, (self.channels, None, None)))
        x = self.block3(self.block2(self.block1(x)))
        x = self.activation(self.bn1(x))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, channels: int, width: int, stride: int, *rest: str) -> nn.Sequential:
    first = _Block(channels, width, stride, *rest)
    others = [_Block(width, width, 1, *rest) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *others)))


wrn_28_10 = partial(WideResNet, depth=28, widen_factor=10)
wrn_34_10 = partial(WideResNet, depth=34, widen_factor=10)
