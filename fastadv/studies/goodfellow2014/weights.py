"""First-layer weights as images: adversarial training makes them more localized (figure 3)."""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import fastadv as fa
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import FAINT, INK, new_figure, save
from fastadv.studies.goodfellow2014.measure import Bench, Line

ACROSS = 10  # units that are drawn, in a row and in a column


def first_layers(bench: Bench) -> Iterator[Line]:
    """Yield what the units of the first layer look at, after usual and after adversarial training."""
    chosen, shape = {name: bench.nets[name] for name in ("maxout", "adversarial")}, bench.test_set.shape
    draw(chosen, shape, bench.figure("weights", "weights of the first layer"), bench.settings.seed)
    details = bench.details["weights"] = {}
    for name, model in chosen.items():
        details[name] = found = localization(model, shape)
        yield Line(f"{name}, pixels that a unit looks at", found["mean"] / found["pixels"])


def first_layer(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return the weights into each unit or piece of a dense first layer as images [units, C, H, W]."""
    weight = next(w.detach() for w in model.parameters() if w.ndim > 1)
    return weight.view(-1, *shape)


def spread(weight: Tensor) -> Tensor:
    """Return the effective number of pixels of each unit, [units], from 1 to H · W.

    This is the participation ratio (sum of w²)² / (sum of w⁴). w² of a pixel is summed over its channels. A
    unit without weights has 0.
    """
    mass = weight.double().square().sum(1).flatten(1)
    return mass.sum(1).square() / mass.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)


def localization(model: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """Return how few pixels the units of the first layer look at: the mean and median of `spread`."""
    weight = first_layer(model, shape)
    each = spread(weight)
    return {
        "units": len(weight),
        "pixels": weight[0, 0].numel(),
        "mean": float(each.mean()),
        "median": float(each.median()),
    }


def draw(models: Mapping[str, nn.Module], shape: Sequence[int], path: str | PathLike[str], seed: int) -> None:
    """Draw first layers over gray images side by side: some units, drawn by seed, the same of each.

    Each unit has its own amplification: orange pixels add to it, blue ones take away.
    """
    blocks = {name: first_layer(model, shape) for name, model in models.items()}
    side, gap, top = 3.4, 0.25, 0.75
    width, height = len(blocks) * (side + gap) + 0.1, side + top
    figure = new_figure(width, height, "Weights of the first layer")
    for place, (name, weight) in enumerate(blocks.items()):
        chosen = fa.rng.permutation(len(weight), fa.rng.derive(seed, "units shown"))[: ACROSS**2]
        left = (0.08 + place * (side + gap)) / width
        axes = figure.add_axes((left, 0.02, side / width, side / height))
        draw_image(axes, mosaic(weight[chosen.to(weight.device)].cpu()), 1.0)
        axes.axis("off")
        pixels = float(spread(weight).median())
        said = f"{pixels:.0f} of {weight[0, 0].numel()} pixels in the median"
        figure.text(left, 1 - 0.35 / height, name, fontsize=9, fontweight="bold", color=INK, va="top")
        figure.text(left, 1 - 0.53 / height, said, fontsize=8, color=FAINT, va="top")
    save(figure, path)


def mosaic(weight: Tensor) -> Tensor:
    """Return one image [1, ...] of units [n, 1, H, W], scaled to their largest weights, a pixel apart."""
    largest = weight.abs().flatten(1).amax(1).clamp(min=torch.finfo(weight.dtype).tiny)
    scaled = pad(weight / largest.view(-1, 1, 1, 1), (0, 1, 0, 1))
    units, _, tall, wide = scaled.shape
    whole = scaled.new_zeros(ACROSS**2, tall, wide)
    whole[:units] = scaled[:, 0]
    rows = whole.view(ACROSS, ACROSS, tall, wide).transpose(1, 2)
    return rows.reshape(1, ACROSS * tall, ACROSS * wide)[:, :-1, :-1]
