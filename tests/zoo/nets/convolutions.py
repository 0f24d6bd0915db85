"""Convolutions of every kind: thin, wide, with a forward or a padding of their own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, by_forward, head, net


def tiling(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution made circular along the width, zero along the height, by its inner method."""

    def inner(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 0, 0), "circular"), weight, bias, self.stride, (1, 0))

    convolution._conv_forward = inner.__get__(convolution, nn.Conv2d)  # type: ignore[method-assign]
    return convolution


@net(shape=(1, 8, 8))
def tiling_of_one_channel() -> nn.Module:
    return nn.Sequential(tiling(nn.Conv2d(1, 32, 3, padding=1)), nn.ReLU(), head(32 * 64))


@net()
def forward_set_on_an_instance() -> nn.Module:
    model = nn.Sequential(block(), block(16), head())
    plain, norm = model[1][0].forward, model[0][1].forward
    model[1][0].forward = lambda x: plain(x.flip(3))
    model[0][1].forward = lambda x: 2 * norm(x)
    return model


@net(shape=(1, 28, 28), batches=(3, 16, 1))
def thin_from_one_channel() -> nn.Module:
    convolutions = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
    return nn.Sequential(
        convolutions[0], nn.ReLU(), nn.MaxPool2d(2), convolutions[1], nn.ReLU(), nn.MaxPool2d(2),
        head(64 * 49),
    )  # fmt: skip


@net(batches=(3, 16, 1))
def wide() -> nn.Module:
    return nn.Sequential(block(3, 64), block(64, 64), block(64, 96, bias=False), nn.AvgPool2d(4), head(384))


@net()
def paddings() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 16, 3, padding=(2, 1), padding_mode="reflect"), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="replicate"), nn.ReLU(), head(16 * 80),
    )  # fmt: skip


@by_forward(lambda: {
    "stem": nn.Conv3d(3, 8, 3, padding=1), "last": block(8), "head": head(16, 5),
}, shape=(3, 4, 8, 8), classes=5)  # fmt: skip
def stem_of_three_dimensions(self: Any, x: Tensor) -> Any:
    return self.head(self.last(torch.relu(self.stem(x)).mean(2)).mean((2, 3)))


@by_forward(lambda: {"maker": head(192, 108), "head": head(256)})
def weights_made_of_the_image(self: Any, x: Tensor) -> Any:
    kernels = self.maker(x).view(len(x) * 4, 3, 3, 3)
    out = F.conv2d(x.reshape(1, -1, 8, 8), kernels, padding=1, groups=len(x))
    return self.head(torch.relu(out.view(len(x), 4, 8, 8)))
