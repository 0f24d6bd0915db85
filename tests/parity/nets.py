"""Nets that make gradients useless, rounded inside and saturated, and three of low confidence."""

from typing import Any

import torch
from torch import Tensor, nn


class _Round(torch.autograd.Function):
    """To the nearest multiple of 1 / levels; the gradient passes as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        return (x * levels).round() / levels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Quantized(nn.Module):
    """Round input and activations to so many steps, with a straight-through gradient (Bengio et al. 2013)."""

    def __init__(self, layers: nn.Sequential, input_levels: int = 16, levels: int = 4) -> None:
        super().__init__()
        self.layers, self.input_levels, self.levels = layers, input_levels, levels
        self.train(layers.training)

    def forward(self, x: Tensor) -> Tensor:
        x = _Round.apply(x, self.input_levels)  # type: ignore[no-untyped-call]
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                x = _Round.apply(x, self.levels)  # type: ignore[no-untyped-call]
        return x


class Scaled(nn.Module):
    """Make logits so large that probabilities are 0 and 1, and the gradient of cross-entropy is 0."""

    def __init__(self, model: nn.Module, factor: float = 200) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return self.factor * logits


# Nets that no attack was tuned on.


class Mix(nn.Module):
    """A layer of an MLP-Mixer: across the patches, then across the channels."""

    def __init__(self, patches: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.across, self.within = (
            nn.Sequential(nn.Linear(size, wide), nn.GELU(), nn.Linear(wide, size))
            for size, wide in ((patches, patches), (channels, 2 * channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norms[0](x).mT).mT
        out: Tensor = x + self.within(self.norms[1](x))
        return out


class Mixer(nn.Module):
    """An MLP-Mixer over patches of 4 by 4 pixels, with LayerNorm and GELU."""

    def __init__(self, channels: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, channels, 4, stride=4)
        self.layers = nn.Sequential(*(Mix(49, channels) for _ in range(layers)), nn.LayerNorm(channels))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(self.patches(x).flatten(2).mT).mean(1))
        return out


class Residual(nn.Module):
    """A pre-activation block with GroupNorm and SiLU that halves the image."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        first = nn.Conv2d(inputs, channels, 3, stride=2, padding=1, bias=False)
        second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.before = nn.Sequential(nn.GroupNorm(4, inputs), nn.SiLU())
        self.inner = nn.Sequential(first, nn.GroupNorm(4, channels), nn.SiLU(), second)
        self.short = nn.Conv2d(inputs, channels, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        out: Tensor = self.short(x) + self.inner(x)
        return out


def gnres() -> nn.Module:
    """Pre-activation blocks on 16 by 16 and 8 by 8."""
    blocks = (Residual(8, 16), Residual(16, 32))
    stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    last = (nn.GroupNorm(4, 32), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return nn.Sequential(stem, *blocks, *last)


def sp() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, channels in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(inputs, channels, 4, stride=2, padding=1), nn.Softplus()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(784, 48), nn.Softplus(), nn.Linear(48, 10))


def segments() -> nn.Sequential:
    """A class for each pixel: the digit that is near, or none."""
    layers: list[nn.Module] = []
    for inputs, gap in ((1, 1), (16, 2), (16, 4)):
        layers += [nn.Conv2d(inputs, 16, 5, padding=2 * gap, dilation=gap), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 11, 1))
