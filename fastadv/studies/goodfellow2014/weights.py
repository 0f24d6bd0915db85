"""First-layer weights as images: adversarial training makes them more localized (figure 3)."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import fastadv as fa
from fastadv.errors import InputError
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import FAINT, INK, new_figure, save


def first_layer(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """The weights into each unit (or piece of one) of the first layer as images, [units, C, H, W].

    They are the first parameter of two dimensions or more, of a dense layer over images of that shape, or of
    a convolution, whose kernels they are. InputError for a model without one.
    """
    weight = next((w.detach() for w in model.parameters() if w.ndim > 1), None)
    if weight is not None and weight.ndim == 4:
        return weight
    if weight is None or weight.ndim != 2 or weight.shape[1] != torch.Size(shape).numel():
        got = "no weights" if weight is None else f"weights of shape {list(weight.shape)}"
        raise InputError(f"model: expected a first layer over images of {list(shape)}, got {got}")
    return weight.view(-1, *shape)


def spread(weight: Tensor) -> Tensor:
    """The effective number of pixels of each unit, [units]: (sum of w²)² / (sum of w⁴), from 1 to H · W.

    This is the participation ratio. w² of a pixel is summed over its channels. A unit without weights has 0.
    """
    mass = weight.double().square().sum(1).flatten(1)
    return mass.sum(1).square() / mass.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)


def localization(model: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """How few pixels the units of the first layer look at: the mean and median of `spread`."""
    weight = first_layer(model, shape)
    each = spread(weight)
    return {
        "units": len(weight),
        "pixels": weight[0, 0].numel(),
        "mean": float(each.mean()),
        "median": float(each.median()),
    }


def draw(
    models: Mapping[str, nn.Module],
    shape: Sequence[int],
    path: str | PathLike[str],
    *,
    across: int = 10,
    down: int = 10,
    seed: int = 0,
) -> None:
    """Draw the first layers of nets side by side: across · down units each, drawn by seed, the same of each.

    Each unit has its own amplification: orange pixels add to it, blue ones take away; those in color lie
    around mid-gray.
    """
    blocks = {name: first_layer(model, shape) for name, model in models.items()}
    side, gap, top = 3.4, 0.25, 0.75
    width, height = len(blocks) * (side + gap) + 0.1, side * down / across + top
    figure = new_figure(width, height, "Weights of the first layer")
    for place, (name, weight) in enumerate(blocks.items()):
        chosen = fa.rng.permutation(len(weight), fa.rng.derive(seed, "units shown"))[: across * down]
        left = (0.08 + place * (side + gap)) / width
        axes = figure.add_axes((left, 0.02, side / width, side * down / across / height))
        draw_image(axes, _mosaic(weight[chosen.to(weight.device)].cpu(), across, down), 1.0)
        axes.axis("off")
        pixels = float(spread(weight).median())
        said = f"{pixels:.0f} of {weight[0, 0].numel()} pixels in the median"
        figure.text(left, 1 - 0.35 / height, name, fontsize=9, fontweight="bold", color=INK, va="top")
        figure.text(left, 1 - 0.53 / height, said, fontsize=8, color=FAINT, va="top")
    save(figure, path)


def _mosaic(weight: Tensor, across: int, down: int) -> Tensor:
    """One image of all units, each scaled to its largest weight, with a pixel between two."""
    largest = weight.abs().flatten(1).amax(1).clamp(min=torch.finfo(weight.dtype).tiny)
    scaled = weight / largest.view(-1, 1, 1, 1)
    if weight.shape[1] not in (1, 3):  # a convolution over other maps
        scaled = scaled.mean(1, keepdim=True)
    if scaled.shape[1] == 3:
        scaled = scaled / 2  # colors have half the range
    scaled = pad(scaled, (0, 1, 0, 1))
    units, channels, tall, wide = scaled.shape
    whole = scaled.new_zeros(across * down, channels, tall, wide)
    whole[:units] = scaled
    rows = whole.view(down, across, channels, tall, wide).permute(2, 0, 3, 1, 4)
    return rows.reshape(channels, down * tall, across * wide)[:, :-1, :-1]
