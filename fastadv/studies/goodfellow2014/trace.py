"""The logits of one image along the fixed direction of its FGSM step, far beyond the box (figure 4)."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fastadv as fa
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import (
    BLUE,
    FAINT,
    GRID,
    INK,
    VERMILION,
    new_figure,
    plain,
    save,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS = 15.0  # the radii of the paper go from -15 to 15
SHOWN = 9  # images under the curves
OTHER = "#B0B0B0"


def along(model: nn.Module, x: Tensor, y: int, radii: Sequence[float]) -> Tensor:
    """Return the images x + radius · sign(gradient of the loss at x), [N, C, H, W], in no box."""
    label = torch.full((1,), y, device=x.device)
    sign = fa.freeze(model).input_gradient(x[None], label, direction=True)[2].sign()
    return x + torch.tensor(radii, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1) * sign


def trace(
    model: nn.Module, x: Tensor, y: int, *, radius: float = RADIUS, points: int = 300
) -> dict[str, Any]:
    """Return the logits of `model` at x [C, H, W] moved by -radius to radius along its FGSM direction.

    radii     where: 0, and `points` on each side of it
    logits    [2 · points + 1][K]
    right     the radii around 0 between which the model stays with the label y; None where it is wrong at 0
    straight  the share of the logits' variance that two straight lines explain, one for each side of 0:
              1 for a linear model, 15/16 for a parabola
    """
    radii = radius * torch.arange(-points, points + 1, dtype=torch.float64) / points
    logits = fa.freeze(model).verdict(along(model, x, y, radii.tolist())).cpu().double()
    return {
        "label": y,
        "radii": radii.tolist(),
        "logits": logits.tolist(),
        "right": _right(radii, logits.argmax(1) == y),
        "straight": straight(radii, logits),
    }


def straight(radii: Tensor, logits: Tensor) -> float:
    """Return the share of the variance of logits [N, K] that a line for each side of 0 explains; 1 without
    any.
    """
    left = 0.0
    for side in (radii <= 0, radii >= 0):
        across = torch.stack([torch.ones_like(radii[side]), radii[side]], 1)
        line = torch.linalg.lstsq(across, logits[side]).solution
        left += float((logits[side] - across @ line).square().sum())
    all_ = float((logits - logits.mean(0)).square().sum())
    return 1 - left / all_ if all_ > 0 else 1.0


def _right(radii: Tensor, right: Tensor) -> list[float] | None:
    """Return the ends of the stretch around 0 in which the decision is right."""
    start = len(radii) // 2
    if not right[start]:
        return None
    wrong = (~right).nonzero()[:, 0]
    low = int(wrong[wrong < start].max()) + 1 if bool((wrong < start).any()) else 0
    high = int(wrong[wrong > start].min()) - 1 if bool((wrong > start).any()) else len(radii) - 1
    return [float(radii[low]), float(radii[high])]


def shown(model: nn.Module, x: Tensor, y: int) -> tuple[Tensor, list[bool]]:
    """Return (images [SHOWN, C, H, W] at even steps along the direction, whether the model sees y in
    each).
    """
    images = along(model, x, y, np.linspace(-RADIUS, RADIUS, SHOWN).tolist())
    return images, (fa.freeze(model).verdict(images).argmax(1) == y).tolist()


def draw(figures: dict[str, Any], images: Tensor, right: Sequence[bool], path: str | PathLike[str]) -> None:
    """Draw what `trace` and `shown` returned for the same image: the logits, and images under them.

    The true class is blue, the class in which the line ends at the right orange. Images are cut to [0, 1];
    those that the model gets right have a blue frame.
    """
    radii, logits = np.asarray(figures["radii"]), np.asarray(figures["logits"])
    label, radius = figures["label"], float(radii[-1])
    ends = int(logits[-1].argmax())
    side = 0.62
    width, height, left, bottom, wide, tall = 7.4, 4.5, 0.65, 1.35, 6.0, 2.65
    figure = new_figure(width, height, "Logits along the direction of FGSM")
    axes = figure.add_axes((left / width, bottom / height, wide / width, tall / height))
    plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlim(-radius, radius)
    colors = dict.fromkeys(range(logits.shape[1]), OTHER) | {ends: VERMILION, label: BLUE}
    for k in sorted(colors, key=lambda k: colors[k] != OTHER):
        axes.plot(radii, logits[:, k], color=colors[k], linewidth=1 if colors[k] == OTHER else 2.2, zorder=3)
    axes.axvline(0, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.text(
        0.02 * radius, 1.0, "clean", color=FAINT, fontsize=7.5, va="top", transform=axes.get_xaxis_transform()
    )
    axes.text(0, 1.03, "logit", transform=axes.transAxes, fontsize=9, color=FAINT, va="bottom")
    axes.set_xlabel("radius ε of x + ε sign(∇ₓ J)", fontsize=9, color=INK)
    _name_lines(axes, logits[-1], colors, label)
    for place, (image, framed) in enumerate(zip(images.clamp(0, 1).cpu(), right, strict=True)):
        center = left + place / (len(images) - 1) * wide
        up, across = (side * size / max(image.shape[1:]) for size in image.shape[1:])
        below = figure.add_axes(((center - across / 2) / width, 0.12 / height, across / width, up / height))
        draw_image(below, image)
        if framed:
            for spine in below.spines.values():
                spine.set(color=BLUE, linewidth=2)
    save(figure, path)


def _name_lines(axes: "Axes", last: NDArray[Any], colors: dict[int, str], y: int) -> None:
    """Write each line's class at its right end."""
    low, high = axes.get_ylim()
    places = spread(((last - low) / (high - low)).tolist(), 0.052)
    for k, place in enumerate(places):
        name = f"{k}, the label" if k == y else str(k)
        axes.annotate(
            name, (1, place), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", fontsize=8,
            color=FAINT if colors[k] == OTHER else colors[k], va="center", annotation_clip=False,
            fontweight="normal" if colors[k] == OTHER else "bold",
        )  # fmt: skip
