"""Accuracy against radius, one line for each net."""

from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike

from fastadv.errors import InputError
from fastadv.evaluation.figures._style import (
    BLUE,
    FAINT,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
    plain,
    save,
)

LINES = ((BLUE, "-"), (VERMILION, "-"), (GREEN, "-"), (PURPLE, "--"), (ORANGE, "--"), (SKY, "--"))


def curves(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: str | PathLike[str],
    *,
    radius: str = "radius",
    title: str | None = None,
    chance: float | None = None,
) -> None:
    """Accuracy (from 0 to 1) against radius, one line for each name, named at its end.

    lines: {name: (radii, accuracy)}, as `accuracy_against_radius` returns; at most six. `radius` names the
    axis ("L∞ radius"); `chance` draws the accuracy of guessing.
    """
    if not 1 <= len(lines) <= len(LINES):
        raise InputError(f"lines: expected 1 to {len(LINES)} curves, got {len(lines)}; draw several figures")
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    figure = new_figure(5.6, 3.4, title)
    longest = max(len(name) for name in lines)
    axes = figure.add_axes((0.1, 0.15, 0.87 - min(0.4, 0.0145 * longest), 0.68 if title else 0.76))
    plain(axes)
    ends, right = [], 0.0
    for (name, (radii, accuracy)), (color, dash) in zip(lines.items(), LINES, strict=False):
        across, up = np.asarray(radii, dtype=float), np.asarray(accuracy, dtype=float)
        if across.ndim != 1 or across.shape != up.shape or across.size == 0:
            raise InputError(
                f"lines[{name!r}]: expected radii and accuracy of one length, "
                f"got shapes {across.shape} and {up.shape}"
            )
        axes.plot(
            across, up, dash, color=color, linewidth=2, marker="o", markersize=3.5, clip_on=False, zorder=3
        )
        # lines that end together are named in the order in which they came down
        ends.append((float(up[-1]) + 1e-6 * float(up.mean()), name, color))
        right = max(right, float(across[-1]))
    axes.set_xlim(0, right or 1.0)
    axes.set_ylim(0, 1)
    if chance is not None:
        axes.axhline(chance, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        axes.text(
            0.01 * (right or 1.0), chance + 0.012, "guessing", color=FAINT, fontsize=7.5, va="bottom",
            zorder=4, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel(radius, fontsize=9, color=INK)
    for height, (_, name, color) in zip(spread([end[0] for end in ends], 0.062), ends, strict=True):
        axes.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            fontsize=9, fontweight="bold", color=color, va="center", annotation_clip=False,
        )  # fmt: skip
    axes.text(0, 1.03, "accuracy", transform=axes.transAxes, fontsize=9, color=FAINT, ha="left", va="bottom")
    save(figure, path)


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
