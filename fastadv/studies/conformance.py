"""Our attacks next to those of other packages, on small networks of five kinds: what runs, what is drawn."""

from collections.abc import Callable, Sequence
from math import pi
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.evaluation import Comparison, Conformance
from fastadv.evaluation.conformance import Subject
from fastadv.evaluation.figures import style
from fastadv.text import percent
from fastadv.threat import THREATS

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
    """Train a standard and a robust network on the digits, and make the others of the robust one."""
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


__all__ = ["RADII", "Quantized", "Scaled", "Waves", "cells", "draw", "problem", "run", "trained"]

SAMPLES = 150


def problem(samples: int = SAMPLES, seed: int = 0) -> tuple[dict[str, Subject], Tensor, Tensor]:
    test_set = fa.data.load("digits", "test", limit=samples)
    x, y, _ = next(iter(fa.data.batches(test_set, samples)))
    return {name: (model, RADII[name]) for name, model in trained(seed).items()}, x, y


def run(
    samples: int = SAMPLES,
    seed: int = 0,
    packages: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Conformance:
    """Train the networks, and compare attacks on the first test digits."""
    subjects, x, y = problem(samples, seed)
    return fa.evaluation.conformance(
        subjects, x, y, packages=packages, only=only, seed=seed, on_progress=on_progress
    )


def best(result: Conformance) -> list[Comparison]:
    """Return the comparison that is worst for ours, for each attack and network."""
    worst: dict[tuple[str, str, str], Comparison] = {}
    for one in result.comparisons:
        place = one.case, one.norm, one.net
        if place not in worst or one.p < worst[place].p:
            worst[place] = one
    return [worst[place] for place in sorted(worst)]


def cells(result: Conformance) -> list[list[str]]:
    """Make a table that fits a terminal: our attack and the rival that is worst for it, ours first."""
    lines = [["attack", "net", "rival", "broken, %", "ahead", "p"]]
    for one in best(result):
        broken = (percent(each.success, 0).removesuffix("%") for each in (one.ours, one.theirs))
        lines.append([
            f"{one.case} {THREATS[one.norm].symbol}", one.net, one.theirs.attack.split()[0],
            "/".join(broken), f"{len(one.only_ours)}/{len(one.only_theirs)}", f"{one.p:.2g}",
        ])  # fmt: skip
    return lines


def draw(result: Conformance, path: str | PathLike[str]) -> None:
    """Draw for each attack and network on how many samples one side is ahead, ours to the right."""
    lines = best(result)
    weaker = result.weaker
    height = 0.6 + 0.17 * len(lines)
    figure = style.new_figure(7.2, height, "Samples on which one side is ahead: theirs (left), ours (right)")
    axes = figure.add_axes((0.42, 0.2 / height, 0.55, (height - 0.7) / height))
    style.plain(axes)
    for place, one in enumerate(lines):
        axes.barh(place, len(one.only_ours), color=style.SKY, height=0.8)
        axes.barh(place, -len(one.only_theirs), color=style.VERMILION, height=0.8)
        if one in weaker:
            axes.text(-len(one.only_theirs), place, " weaker", va="center", ha="right", fontsize=7)
    names = [f"{one.case} {one.norm}, {one.net}: {one.theirs.attack}" for one in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=6)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    style.save(figure, path)
