"""BatchNorm after a convolution or a linear layer: where it may be folded, and where it only looks so."""

from typing import Any

import torch
from torch import Tensor, nn

from ..net import block, by_forward, head, net


def convolution(inputs: int = 3, outputs: int = 16) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@by_forward(lambda: {"stem": block(), "first": block(16), "last": block(16)[:2], "head": head()})
def residual(self: Any, x: Tensor) -> Any:
    x = self.stem(x)
    return self.head(torch.relu(x + self.last(self.first(x))))


@net()
def norm_before_convolution() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), convolution(), nn.ReLU(), nn.BatchNorm2d(16), head())


@by_forward(lambda: {
    "first": convolution(), "last": convolution(16), "norm": nn.BatchNorm2d(16), "head": head(),
})  # fmt: skip
def one_norm_of_two_convolutions(self: Any, x: Tensor) -> Any:
    x = torch.relu(self.norm(self.first(x)))
    return self.head(torch.relu(self.norm(self.last(x))))


@net()
def hook_that_reads_what_the_norm_is_given() -> nn.Module:
    model = nn.Sequential(block(), block(16), head())
    model[1][1].register_forward_hook(lambda part, inputs, out: out + 0.3 * inputs[0])
    return model
