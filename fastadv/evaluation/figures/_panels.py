"""Accuracy against distance in several panels side by side, each line beside its reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike

from fastadv.errors import InputError
from fastadv.evaluation.figures.style import (
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

COLORS = (SKY, GREEN, ORANGE, VERMILION, PURPLE, BLUE)
WIDTH, HEIGHT, GAP = 2.9, 2.3, 0.3  # inches of a panel, and between two
Line = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class Panel:
    """Accuracy (from 0 to 1) against distance, in one norm.

    lines, reference   by name, as (distances, accuracy).
    name    of the horizontal axis.
    right   where it ends.
    mark    a distance at which a vertical line is drawn, if any.
    """

    name: str
    right: float
    lines: Mapping[str, Line]
    reference: Mapping[str, Line] = field(default_factory=dict)
    mark: float | None = None


def panels(
    parts: Sequence[Panel],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    drawn: str = "",
    reference: str = "",
) -> None:
    """Draw panels side by side; a name has the same color in each of them, at most six names.

    drawn, reference: what the solid lines and the thin dashed ones are, for the key.
    Raises InputError without panels, for too many names, and for lines whose lengths differ.
    """
    names = list(dict.fromkeys(name for part in parts for name in (*part.lines, *part.reference)))
    if not 1 <= len(names) <= len(COLORS):
        raise InputError(f"parts: expected 1 to {len(COLORS)} names of lines, got {len(names)}")
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    colors = dict(zip(names, COLORS, strict=False))
    left, bottom, top = 0.5, 0.45, 0.72 if title else 0.42
    width = left + len(parts) * (WIDTH + GAP)
    height = bottom + HEIGHT + top
    figure = new_figure(width, height, title)
    for place, part in enumerate(parts):
        across = (left + place * (WIDTH + GAP)) / width
        axes = figure.add_axes((across, bottom / height, WIDTH / width, HEIGHT / height))
        plain(axes)
        axes.set_xlim(0, part.right)
        axes.set_ylim(0, 1)
        if part.mark is not None:
            axes.axvline(part.mark, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        for lines, style, thick in ((part.reference, (0, (3, 1.5)), 1.1), (part.lines, "-", 2.0)):
            for name, line in lines.items():
                distances, accuracy = (np.asarray(values, dtype=float) for values in line)
                if distances.ndim != 1 or distances.shape != accuracy.shape:
                    raise InputError(
                        f"{part.name}, {name}: expected distances and accuracy of one length, "
                        f"got shapes {distances.shape} and {accuracy.shape}"
                    )
                axes.plot(distances, accuracy, linestyle=style, color=colors[name], linewidth=thick, zorder=3)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_locator(MultipleLocator(0.2))
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_xlabel(part.name, fontsize=9, color=INK)
        if place:
            axes.set_yticklabels([])
    level = 1 - (top - 0.2) / height
    across = left
    for name in names:
        figure.text(across / width, level, "■", fontsize=9, color=colors[name], va="center")
        figure.text((across + 0.14) / width, level, name, fontsize=9, color=INK, va="center")
        across += 0.42 + 0.075 * len(name)
    told = [text for text in (drawn and f"solid: {drawn}", reference and f"dashed: {reference}") if text]
    figure.text(across / width, level, ", ".join(told), fontsize=8.5, color=FAINT, va="center")
    save(figure, path)
