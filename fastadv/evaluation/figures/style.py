"""What the figures share: colors, the empty figure, its title, and the file it becomes."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastadv._extras import need
from fastadv.card import about
from fastadv.errors import InputError
from fastadv.files import atomic_write

if TYPE_CHECKING:  # matplotlib takes as long to import as the rest of the library, and few calls draw
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9", "#E69F00"
LINES = ((BLUE, "-"), (VERMILION, "-"), (GREEN, "-"), (PURPLE, "--"), (ORANGE, "--"), (SKY, "--"))
INK, FAINT, GRID, FRAME = "#222222", "#777777", "#E6E6E6", "#CCCCCC"
KINDS = ("png", "pdf", "svg")


def check_path(path: str | PathLike[str]) -> str:
    """Check the name of a picture.

    Args:
        path: of the picture.

    Returns:
        "png", "pdf" or "svg", the kind of file that the name asks for.

    Raises:
        InputError: the name has another ending.
        MissingExtraError: matplotlib is missing.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise InputError(f"path: expected a name ending in .png, .pdf or .svg, got {str(path)!r}")
    need("matplotlib")
    return kind


def new_figure(width: float, height: float, title: str | None = None) -> "Figure":
    """Return a white figure of that size in inches, with its title in the upper left corner."""
    need("matplotlib")
    from fastadv.evaluation.figures.picture import Picture

    figure = Picture(figsize=(width, height), dpi=200, facecolor="white")
    if title:
        figure.text(0, 1, title, fontsize=10.5, fontweight="bold", color=INK, va="top")
    return figure


def plain(axes: "Axes") -> None:
    """Axes without ticks, and with the lower border alone."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8.5, colors=INK, pad=5)
    axes.set_axisbelow(True)


def accuracy_axis(axes: "Axes", right: float, below: str) -> None:
    """Make them axes of accuracy, 0 to 100%, against what is named below them, from 0 to `right`."""
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    plain(axes)
    axes.set(xlim=(0, right), ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel(below, fontsize=9, color=INK)


def key(figure: "Figure", left: float, down: float, entries: Sequence[tuple[str, str, str]]) -> None:
    """Write the key in one line, so many inches from the upper left corner: (name, marker or line, color)."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    marks, solid = [], [mark in ("-", "--", ":") for _, mark, _ in entries]
    for (_, mark, color), line in zip(entries, solid, strict=True):
        marks.append(Line2D([], [], color=color, markersize=7, markeredgewidth=1.2, linewidth=1.2))
        marks[-1].set(linestyle=mark if line else "", marker="" if line else mark)
    figure.legend(
        marks, [name for name, _, _ in entries], loc="center left",
        bbox_to_anchor=(left / width, 1 - down / height), ncols=len(marks), fontsize=9, frameon=False,
        labelcolor=[INK if mark else color for _, mark, color in entries], borderpad=0, borderaxespad=0,
        handlelength=1.8 if any(solid) else 0.8, handletextpad=0.5,
    )  # fmt: skip


def finish(figure: "Figure", path: str | PathLike[str] | None) -> "Figure":
    """Return the figure, written to a file if one is asked for."""
    if path is not None:
        save(figure, path)
    return figure


def save(figure: "Figure", path: str | PathLike[str], more: Mapping[str, str] | None = None) -> None:
    """Write the figure, cropped; a PNG keeps as text what `more` and `runs.about` say of it."""
    kind = check_path(path)
    kept = about() | dict(more or {}) if kind == "png" else None
    with atomic_write(path) as part:
        figure.savefig(part, format=kind, bbox_inches="tight", pad_inches=0.1, metadata=kept)


def name_lines(axes: "Axes") -> None:
    """Name the lines at the right of their axes, in their colors, the one that ends highest first."""
    lines = sorted(axes.get_lines(), key=lambda line: -np.asarray(line.get_ydata())[-1])
    axes.legend(
        handles=lines, loc="center left", bbox_to_anchor=(1.03, 0.5), labelcolor="linecolor", fontsize=9,
        frameon=False, borderpad=0, handlelength=2.8,
    )  # fmt: skip
