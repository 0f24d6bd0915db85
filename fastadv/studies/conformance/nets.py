"""Nets on which weak attacks show: trained against attacks, rounding, saturated, flat at the images."""

from math import pi
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa

MEAN, STD = 0.3, 0.38  # of the pixels of the digits
# at which the nets are neither untouched nor lost
RADII = {
    "standard": {"linf": 0.08, "l2": 0.5, "l1": 1.5, "l0": 3.0},
    "robust": {"linf": 0.15, "l2": 0.9, "l1": 3.0, "l0": 4.0},
}
RADII |= {"quantized": RADII["robust"], "saturated": RADII["robust"]}
RADII["flat"] = {"linf": 0.25}


class _Round(torch.autograd.Function):
    """To the nearest multiple of 1 / levels; the gradient passes as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        return (x * levels).round() / levels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Quantized(nn.Module):
    """Round input and activations, with a gradient that passes straight through."""

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


class Waves(nn.Module):
    """Make pixels rise in waves, flat at the multiples of 1 / levels: the gradient at each digit is zero.

    A pixel v becomes v - sin(2 pi levels v) / (2 pi levels), which leaves the multiples where they are. Only
    attacks that begin beside x have a gradient to follow.
    """

    def __init__(self, model: nn.Module, levels: int = 16) -> None:
        super().__init__()
        self.model, self.frequency = model, 2 * pi * levels
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x - (self.frequency * x).sin() / self.frequency)
        return logits


class Scaled(nn.Module):
    """Make logits so large that probabilities are 0 and 1, and the gradient of cross-entropy is 0."""

    def __init__(self, model: nn.Module, factor: float = 200) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return self.factor * logits


def _net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(384, 10),
        )  # fmt: skip


def trained(seed: int = 0, epochs: int = 8) -> dict[str, nn.Module]:
    """Train a standard and a robust network on the digits, and make the others of the robust one.

    The standard one normalizes its input.
    """
    train_set = fa.data.load("digits", "train")
    recipes: dict[str, fa.train.Recipe] = {
        "standard": fa.train.Standard(),
        "robust": fa.train.PGDTraining(fa.Linf(0.15), steps=5),
    }
    nets: dict[str, nn.Module] = {}
    for name, recipe in recipes.items():
        model: nn.Module = _net(seed)
        nets[name] = model = fa.models.Normalized(model, MEAN, STD) if name == "standard" else model
        fa.train.fit(model, train_set, recipe, epochs=epochs, optimizer="adam", seed=seed)
        model.eval()
    layers = nets["robust"]
    assert isinstance(layers, nn.Sequential)
    made = {"quantized": Quantized(layers), "saturated": Scaled(layers), "flat": Waves(layers)}
    return {**nets, **made}
