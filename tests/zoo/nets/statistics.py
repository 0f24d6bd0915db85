"""Norms other than BatchNorm2d after a convolution: subclasses, functions, other dimensions and kinds."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import by_forward, head, net, nets
from .norms import convolution


class Activated(nn.BatchNorm2d):
    """BatchNorm and activation in one module, as the libraries of image models have it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        return self.act(self.drop(out))


nets(
    {},
    subclass_with_activation=lambda: nn.Sequential(
        convolution(), Activated(16), convolution(16), Activated(16), head()
    ),
)


@net(mixes=True)
def statistics_of_the_batch() -> nn.Module:
    return nn.Sequential(convolution(), nn.BatchNorm2d(16, track_running_stats=False), nn.ReLU(), head())


@net(shape=(40,), batches=(3, 600, 1, 64))
def linear_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(40, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64),
        head(64),
    )  # fmt: skip


@by_forward(lambda: {
    "linear": nn.Linear(12, 16), "norm": nn.BatchNorm1d(16), "head": head(112),
}, shape=(7, 12))  # fmt: skip
def linear_norm_transposed(self: Any, x: Tensor) -> Any:
    return self.head(torch.relu(self.norm(self.linear(x).transpose(1, 2))))


@net()
def norm_after_transposed_convolution() -> nn.Module:
    up = nn.ConvTranspose2d(3, 12, 3, stride=2, padding=1, output_padding=1, groups=3)
    return nn.Sequential(
        up, nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3, stride=2), nn.ELU(), head(196)
    )


@net()
def other_norms() -> nn.Module:
    return nn.Sequential(
        convolution(), nn.GroupNorm(4, 16), nn.ReLU(), convolution(16),
        nn.InstanceNorm2d(16, affine=True), nn.SiLU(), convolution(16),
        nn.LocalResponseNorm(3), nn.Flatten(2), nn.LayerNorm(64), head(),
    )  # fmt: skip
