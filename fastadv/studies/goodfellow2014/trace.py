"""The logits of one image along the fixed direction of its FGSM step, far beyond the box (figure 4)."""

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fastadv as fa
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.images import draw_image
from fastadv.evaluation.figures.style import BLUE, FAINT, GRID, INK, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS, POINTS = 15.0, 300  # the radii of the paper go from -15 to 15; points on each side of 0
SHOWN = (
    -15.0,
    -0.5,
    -0.25,
    0.0,
    0.25,
    0.5,
    15.0,
)  # radii of the images under the curves: beyond 1 all pixels
# are black or white
OTHER = "#B0B0B0"


def trace(model: nn.Module, x: Tensor, y: int) -> tuple[dict[str, Any], Tensor]:
    """Return how the logits of `model` change as x [C, H, W] moves along its FGSM direction, in no box.

    These figures, and the images [N, C, H, W] at the radii in SHOWN.

    label     y, whose loss the direction ascends
    radii     where: 0, and POINTS on each side of it
    logits    [2 · POINTS + 1][K]
    right     the radii around 0 between which the model stays with the label y; None where it is wrong at 0
    straight  the share of the logits' variance that two straight lines explain, one for each side of 0:
              1 for a linear model, 15/16 for a parabola
    """
    frozen, label = fa.freeze(model), torch.full((1,), y, device=x.device)
    sign = frozen.input_gradient(x[None], label, direction=True)[2].sign()
    radii = RADIUS * torch.arange(-POINTS, POINTS + 1, dtype=torch.float64) / POINTS
    images = x + radii.to(x).view(-1, 1, 1, 1) * sign
    logits = frozen.verdict(images).cpu().double()
    figures = {
        "label": y,
        "radii": radii.tolist(),
        "logits": logits.tolist(),
        "right": _right(radii, logits.argmax(1) == y),
        "straight": straight(radii, logits),
    }
    return figures, images[_shown(radii)]


def _shown(radii: Tensor) -> Tensor:
    """Return the places of the radii in SHOWN."""
    return (radii[:, None] - torch.tensor(SHOWN, dtype=radii.dtype)).abs().argmin(0)


def straight(radii: Tensor, logits: Tensor) -> float:
    """Return the share of the variance of logits [N, K] that a line for each side of 0 explains."""
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


def draw(figures: dict[str, Any], images: Tensor, path: str | PathLike[str]) -> None:
    """Draw what `trace` returned: the logits, and images under them.

    The true class is blue, the class in which the line ends at the right orange. Images are cut to [0, 1];
    those that the model gets right have a blue frame.
    """
    radii, logits = np.asarray(figures["radii"]), np.asarray(figures["logits"])
    label, radius, ends = figures["label"], float(radii[-1]), int(logits[-1].argmax())
    right = logits[_shown(torch.from_numpy(radii))].argmax(1) == label
    side = 0.62
    width, height, left, bottom, wide, tall = 7.4, 4.75, 0.65, 1.6, 6.0, 2.65
    figure = style.new_figure(width, height, "Logits along the direction of FGSM, and some of the images")
    axes = figure.add_axes((left / width, bottom / height, wide / width, tall / height))
    style.plain(axes)
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
        below = figure.add_axes(((center - across / 2) / width, 0.3 / height, across / width, up / height))
        draw_image(below, image)
        below.set_xlabel(f"ε = {SHOWN[place]:g}", fontsize=8, color=BLUE if framed else FAINT, labelpad=3)
        if framed:
            for spine in below.spines.values():
                spine.set(color=BLUE, linewidth=2)
    style.save(figure, path)


def _name_lines(axes: "Axes", last: NDArray[Any], colors: dict[int, str], y: int) -> None:
    """Write each line's class at its right end."""
    low, high = axes.get_ylim()
    ends = ((last - low) / (high - low)).tolist()
    for k, (end, place) in enumerate(zip(ends, style.spread(ends, 0.052), strict=True)):
        name, other = f"{k}, the label" if k == y else str(k), colors[k] == OTHER
        style.name_end(
            axes, name, end, place, FAINT if other else colors[k],
            fontsize=8, fontweight="normal" if other else "bold",
        )  # fmt: skip
