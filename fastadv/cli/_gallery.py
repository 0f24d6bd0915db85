"""Pictures of the demo: rows of digits, each with what a net or a data set calls them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from fastadv._files import atomic_write
from fastadv.evaluation.figures import BLUE, FAINT, INK, VERMILION

SIDE, GAP, CAPTION, LEFT, TOP = 0.74, 0.08, 0.2, 1.95, 0.62  # inches


LESS_MORE = LinearSegmentedColormap.from_list("less_more", [BLUE, "#FAFAFA", VERMILION])


@dataclass(frozen=True)
class Strip:
    """A row of grey images [N, 1, H, W] in [0, 1], or of differences in [-1, 1] drawn amplified, with N captions, of which `marked` [N] stand out."""

    name: str
    images: Tensor
    captions: Sequence[object] = ()
    marked: Tensor | None = None
    mark: str = VERMILION
    difference: bool = False
    remark: str = ""
    apart: float = 0.0


def gallery(strips: Sequence[Strip], path: Path, title: str, subtitle: str = "") -> None:
    """Draw the strips under each other. Differences share one amplification, which is stated."""
    changes = [strip.images.abs().max() for strip in strips if strip.difference]
    gain = _rounded(1 / max(1e-6, float(torch.stack(changes).max()))) if changes else 1.0
    strips = [
        replace(strip, name=f"{strip.name} × {gain:g}") if strip.difference else strip for strip in strips
    ]
    count = len(strips[0].images)
    width = LEFT + count * (SIDE + GAP)
    height = TOP + sum(SIDE + GAP + strip.apart + (CAPTION if strip.captions else 0) for strip in strips)
    figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
    figure.text(0.06 / width, 1 - 0.08 / height, title, fontsize=11, fontweight="bold", color=INK, va="top")
    figure.text(0.06 / width, 1 - 0.3 / height, subtitle, fontsize=8.5, color=FAINT, va="top")
    top = TOP
    for strip in strips:
        top += strip.apart
        middle = 1 - (top + SIDE / 2) / height
        figure.text(
            (LEFT - 0.14) / width,
            middle + (0.08 / height if strip.remark else 0),
            strip.name,
            fontsize=9,
            color=INK,
            ha="right",
            va="center",
        )
        if strip.remark:
            figure.text(
                (LEFT - 0.14) / width,
                middle - 0.09 / height,
                strip.remark,
                fontsize=7.5,
                color=FAINT,
                ha="right",
                va="center",
            )
        for column in range(count):
            axes = figure.add_axes(
                (
                    (LEFT + column * (SIDE + GAP)) / width,
                    1 - (top + SIDE) / height,
                    SIDE / width,
                    SIDE / height,
                )
            )
            limits = (-1 / gain, 1 / gain) if strip.difference else (0.0, 1.0)
            colours = LESS_MORE if strip.difference else "gray"
            axes.imshow(
                strip.images[column, 0].numpy(),
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
                interpolation="nearest",
            )
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color("#CCCCCC")
                spine.set_linewidth(0.6)
            if strip.captions:
                marked = strip.marked is not None and bool(strip.marked[column])
                style: dict[str, Any] = (
                    {"color": strip.mark, "fontweight": "bold"} if marked else {"color": INK}
                )
                axes.text(
                    0.5,
                    -0.05,
                    str(strip.captions[column]),
                    transform=axes.transAxes,
                    ha="center",
                    va="top",
                    fontsize=8.5,
                    **style,
                )
        top += SIDE + GAP + (CAPTION if strip.captions else 0)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", bbox_inches="tight", pad_inches=0.1)


def _rounded(value: float) -> float:
    """The largest of 1, 1.5, 2, 3, 4, 6, 8, 10 not above `value`."""
    return max((step for step in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0) if step <= value), default=1.0)
