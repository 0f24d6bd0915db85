"""Nets that make gradients useless, on which weak attacks show: rounded inside, and saturated."""

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
    """Round input and activations, with a gradient that passes straight through.

    Args:
        layers: of the network.
        input_levels: steps of the input between 0 and 1.
        levels: steps of an activation between 0 and 1.

    Source:
        Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons" (arXiv
        1308.3432).
    """

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
    """Make logits so large that probabilities are 0 and 1, and the gradient of cross-entropy is 0.

    Args:
        model: whose logits are multiplied.
        factor: to multiply them by.
    """

    def __init__(self, model: nn.Module, factor: float = 200) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return self.factor * logits
