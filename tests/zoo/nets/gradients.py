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


class Viewed(torch.autograd.Function):
    """The identity; its backward asks for a gradient that lies in memory as it is written."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows = gradient.view(gradient.size(0), -1)
        return (rows - rows.mean(1, keepdim=True)).view(ctx.shape)


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


@by_forward(lambda: {"first": block(), "last": block(16), "head": head()})
def backward_with_view(self: Any, x: Tensor) -> Any:
    return self.head(self.last(Viewed.apply(self.first(x))))


@by_forward(lambda: {"first": block(), "head": head()})
def fake_quantization(self: Any, x: Tensor) -> Any:
    return self.head(torch.fake_quantize_per_tensor_affine(self.first(x), 0.1, 0, 0, 63))


@by_forward(lambda: {"first": block(), "head": head()})
def hook_on_a_gradient(self: Any, x: Tensor) -> Any:
    hidden = self.first(x)
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: gradient * 0.5 + 0.01)
    return self.head(hidden)


@net()
def backward_hook_on_a_norm() -> nn.Module:
    model = nn.Sequential(block(), block(16), head())
    model[1][1].register_full_backward_hook(lambda part, inputs, outputs: (inputs[0] * 0.5 + 0.01,))
    return model


@net()
def backward_hook_on_a_convolution() -> nn.Module:
    model = nn.Sequential(block(), block(16), head())
    model[1][0].register_full_backward_hook(lambda part, inputs, outputs: (inputs[0].flip(1),))
    return model
