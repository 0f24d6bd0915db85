"""Nets whose backward pass is their own: straight-through estimators, hooks on gradients, functions."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..net import block, by_forward, head, net


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


@by_forward(lambda: {"first": block(), "last": block(16), "head": head()})
def straight_through_activations(self: Any, x: Tensor) -> Any:
    return self.head(self.last(Rounded.apply(self.first(x))))


@by_forward(lambda: {
    "convolution": nn.Conv2d(3, 16, 3, padding=1), "norm": nn.BatchNorm2d(16), "head": head(),
})  # fmt: skip
def straight_through_between_convolution_and_norm(self: Any, x: Tensor) -> Any:
    return self.head(torch.relu(self.norm(Rounded.apply(self.convolution(x)))))


class BinaryConv2d(nn.Conv2d):
    """A convolution by the signs of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, Sign.apply(self.weight) * scale, self.bias, self.stride, self.padding)


@by_forward(lambda: {
    "convolution": BinaryConv2d(3, 16, 3, padding=1), "norm": nn.BatchNorm2d(16),
    "last": BinaryConv2d(16, 16, 3, padding=1), "last_norm": nn.BatchNorm2d(16), "head": head(),
})  # fmt: skip
def binary_weights_and_activations(self: Any, x: Tensor) -> Any:
    hidden = self.norm(self.convolution(x))
    return self.head(self.last_norm(self.last(Sign.apply(hidden))))


@net()
def backward_hook_on_a_norm() -> nn.Module:
    model = nn.Sequential(block(), block(16), head())
    model[1][1].register_full_backward_hook(lambda part, inputs, outputs: (inputs[0] * 0.5 + 0.01,))
    return model
