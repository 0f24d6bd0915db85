"""What the figures share: colors, the empty figure, its title, and the file it becomes."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, PercentFormatter
from torch import Tensor

import fastadv as fa
from fastadv.card import about
from fastadv.files import atomic_write

BLUE, VERMILION = fa.figures.BLUE, fa.figures.VERMILION
Rect = tuple[float, float, float, float]
"""Left, bottom, width and height in inches."""
Way = Literal["both", "x", "y"]
GREEN, PURPLE, SKY, ORANGE = "#009E73", "#AA4499", "#56B4E9", "#E69F00"
INK, FAINT, GRID = "#222222", "#777777", "#E6E6E6"


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """Return a white figure of that size in inches, with its title in the upper left corner."""
    figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
    if title:
        place = 0.08 / width, 1 - 0.08 / height
        figure.text(*place, title, fontsize=10.5, fontweight="bold", color=INK, va="top")
    return figure


def panel(figure: Figure, at: Rect, below: str = "", beside: str = "", grid: Way = "both") -> Axes:
    """Add plain axes at a place in inches, with a grid and the names of what runs along them."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((at[0] / width, at[1] / height, at[2] / width, at[3] / height))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8.5, colors=INK, pad=5)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID, linewidth=0.6 if grid == "both" else 0.8)
    axes.set_xlabel(below, fontsize=9, color=INK)
    axes.set_ylabel(beside, fontsize=9, color=INK)
    return axes


def mark(axes: Axes, where: float) -> None:
    """Draw a thin dashed line at a value of the horizontal axis."""
    axes.axvline(where, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)


def shares(axis: Axis) -> None:
    """Write shares from 0 to 1 as percentages, every 20."""
    axis.set_major_formatter(PercentFormatter(1.0))
    axis.set_major_locator(MultipleLocator(0.2))


def key(figure: Figure, left: float, down: float, entries: Sequence[tuple[str, str, str]]) -> None:
    """Write the key in one line, so many inches from the upper left corner: (name, marker or line, color)."""
    width, height = figure.get_size_inches()
    lined: dict[str, Any] = {"-": "-", "--": "--", ":": ":"}
    marks = [
        Line2D([], [], color=color, linestyle=lined[mark], linewidth=1.2)
        if mark in lined
        else Line2D([], [], marker=mark, color=color, linestyle="", markersize=7, markeredgewidth=1.2)
        for _, mark, color in entries
    ]
    figure.legend(
        marks, [name for name, _, _ in entries], loc="center left",
        bbox_to_anchor=(left / width, 1 - down / height), ncols=len(marks), fontsize=9, labelcolor=INK,
        handlelength=1.8 if any(mark in lined for _, mark, _ in entries) else 0.8, handletextpad=0.5,
        frameon=False, borderpad=0, borderaxespad=0,
    )  # fmt: skip


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write the figure, cropped; a PNG keeps as text what made it."""
    kind = fa.figures.check_path(path)
    told = about() if kind == "png" else None
    with atomic_write(path) as part:
        figure.savefig(part, format=kind, bbox_inches="tight", pad_inches=0.1, metadata=told)


def leader(color: str, gap: float = 0) -> dict[str, Any]:
    """Return a thin line from the left of a name to what it names, ending `gap` points before it."""
    return {
        "arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": gap, "relpos": (0, 0.5),
    }  # fmt: skip


def spread(heights: Sequence[float], apart: float) -> list[float]:
    """Heights in [0, 1], moved as little as needed for labels to stand `apart`, in their order."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    for _ in range(200):
        overlap = apart - np.diff(placed)
        for i in np.flatnonzero(overlap > 1e-9):
            placed[i] -= overlap[i] / 2
            placed[i + 1] += overlap[i] / 2
        placed[0] = max(placed[0], 0.0)
    result = np.empty_like(placed)
    result[order] = placed
    return [float(height) for height in result]


def draw_image(axes: Axes, image: Tensor, gain: float | None = None) -> None:
    """Draw an image [1 or 3, H, W] in [0, 1], or with `gain` an amplified gray one, in a thin frame."""
    pixels: Any = image.permute(1, 2, 0).numpy()
    how: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    if gain is not None:
        less_more = LinearSegmentedColormap.from_list("less_more", [BLUE, "#FAFAFA", VERMILION])
        how = {"cmap": less_more, "vmin": -1 / gain, "vmax": 1 / gain}
    axes.imshow(pixels if len(image) == 3 else pixels[..., 0], interpolation="nearest", **how)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#CCCCCC", linewidth=0.6)
