"""VGG, DenseNet and Inception for 32x32 images, beside the networks of `fa.models`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from papers.study import CPU

# VGG: 3x3 convolutions of each of the five stages, by depth; a stage has 1, 2, 4, 8 and 8 times the width
DEPTHS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
WIDER = (1, 2, 4, 8, 8)
# Inception: sixteenths of the channels: those of the 1x1 and of the 3x3 branch of each block, a single number
# where the image is halved
STAGES = ((2, 2), (2, 3), 5, (7, 3), (6, 4), (5, 5), (3, 6), 6, (11, 10), (11, 10))
STEM = 6


Shape = tuple[int, int, int]  # (C, H, W) of one image


def draw_convolutions(model: nn.Module, fan: str) -> None:
    """Draw convolutions as He et al. 2015 do, by what leaves them or, with "fan_in", by what enters them."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu")  # type: ignore[arg-type]


class Features(nn.Module):
    """A network that sets `channels` of its images, its layers `features`, and on their mean `linear`."""

    channels: int
    features: nn.Module
    linear: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x).mean(dim=(2, 3)))
        return logits

    def draw_weights(self) -> None:
        draw_convolutions(self, "fan_in")
        nn.init.zeros_(self.linear.bias)


class VGG(Features):
    """VGG with BatchNorm and one linear layer, as is usual for CIFAR-10 (Simonyan and Zisserman 2015)."""

    def __init__(
        self,
        shape: Shape = (3, 32, 32),
        classes: int = 10,
        *,
        depth: int = 16,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels = shape[0]
        with fa.rng.generators_kept(CPU, seed):
            layers: list[nn.Module] = []
            before = shape[0]
            for count, times in zip(DEPTHS[depth], WIDER, strict=True):
                for _ in range(count):
                    after = times * width
                    layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
                    before = after
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            self.features = nn.Sequential(*layers)
            draw_convolutions(self.features, "fan_out")
            for name, bias in self.features.named_parameters():
                if name.endswith("bias"):  # those of BatchNorm are 0 from the start
                    nn.init.zeros_(bias)
            self.linear = nn.Linear(before, classes)


class _Beside(nn.Module):
    """Two ways through a block, whose outputs are put beside each other."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


def _before(channels: int, width: int, kernel: int) -> nn.Sequential:
    """BatchNorm, ReLU and a convolution that keeps the size."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), convolution)


class DenseNet(Features):
    """DenseNet-BC of three blocks, without dropout (Huang et al. 2017)."""

    def __init__(
        self,
        shape: Shape = (3, 32, 32),
        classes: int = 10,
        *,
        depth: int = 100,
        growth: int = 12,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels = shape[0]
        with fa.rng.generators_kept(CPU, seed):
            width = 2 * growth
            layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False)]
            for block in range(3):
                if block:
                    layers += [_before(width, width // 2, 1), nn.AvgPool2d(2)]
                    width //= 2
                for _ in range((depth - 4) // 6):
                    new = nn.Sequential(_before(width, 4 * growth, 1), _before(4 * growth, growth, 3))
                    layers.append(_Beside(nn.Identity(), new))
                    width += growth
            self.features = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
            self.linear = nn.Linear(width, classes)
            self.draw_weights()


def _after(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class Inception(Features):
    """The small Inception network of Zhang et al. 2017; the first convolution has 6 * `width` channels."""

    def __init__(
        self, shape: Shape = (3, 32, 32), classes: int = 10, *, width: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        self.channels = shape[0]
        with fa.rng.generators_kept(CPU, seed):
            channels = STEM * width
            layers: list[nn.Module] = [_after(shape[0], channels, 3)]
            for stage in STAGES:
                if isinstance(stage, int):
                    halved = _after(channels, stage * width, 3, stride=2)
                    layers.append(_Beside(halved, nn.MaxPool2d(3, 2, padding=1)))
                    channels += stage * width
                else:
                    narrow, wide = (part * width for part in stage)
                    layers.append(_Beside(_after(channels, narrow, 1), _after(channels, wide, 3)))
                    channels = narrow + wide
            self.features = nn.Sequential(*layers)
            self.linear = nn.Linear(channels, classes)
            self.draw_weights()


def _made(net: type[nn.Module], *, normalize: str | None = None, **options: Any) -> nn.Module:
    """Return the network, within the normalization of that data set as `fa.models.create` does it."""
    model = net(**options)
    return model if normalize is None else fa.models.Normalized(model, *fa.models.STATISTICS[normalize])


vgg, densenet, inception = (partial(_made, net) for net in (VGG, DenseNet, Inception))

for each in (VGG, DenseNet, Inception, _Beside):
    each.__module__ = "fastadv.studies.ilyas2019.nets"  # as the run folders of `fastadv study` know it
