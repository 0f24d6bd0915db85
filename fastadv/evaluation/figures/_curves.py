"""Accuracy against radius, one line for each net."""

from collections.abc import Mapping
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, GREEN, ORANGE, PURPLE, SKY, VERMILION

LINES = ((BLUE, "-"), (VERMILION, "-"), (GREEN, "-"), (PURPLE, "--"), (ORANGE, "--"), (SKY, "--"))

Line = tuple[ArrayLike, ArrayLike]


def curves(
    lines: Mapping[str, Line], path: str | PathLike[str], *, radius: str = "radius", title: str | None = None,
    chance: float | None = None, between: tuple[str, str] | None = None,
) -> None:  # fmt: skip
    """Draw accuracy against radius, one line for each name, named at its end.

    Args:
        lines: {name: (radii, accuracy)}, as `accuracy_against_radius` returns, accuracy from 0 to 1; at most
            six.
        path: of the picture: .png, .pdf or .svg.
        radius: the name of the axis ("L∞ radius").
        title: above the figure; None is none.
        chance: draws the accuracy of guessing; None does not.
        between: two names, of what an attack leaves and of what is certified: the accuracy against every
            attack lies between these lines, and the figure fills what they leave open.

    Raises:
        InputError: there are no lines or too many, lengths differ, or `between` names others.
    """
    if not 1 <= len(lines) <= len(LINES):
        raise InputError(f"lines: expected 1 to {len(LINES)} curves, got {len(lines)}; draw several figures")
    from matplotlib.patheffects import withStroke

    figure = style.new_figure(5.6, 3.4, title)
    longest = max(len(name) for name in lines)
    axes = figure.add_axes((0.1, 0.15, 0.855 - min(0.4, 0.0145 * longest), 0.68 if title else 0.76))
    known = {name: _checked(name, line) for name, line in lines.items()}
    right = max(float(across[-1]) for across, _ in known.values()) or 1.0
    style.accuracy_axis(axes, right, radius)
    everywhere, ends = np.linspace(0, right, 1001), []
    for (name, (across, up)), (color, dash) in zip(known.items(), LINES, strict=False):
        axes.plot(
            across, up, dash, color=color, linewidth=2, clip_on=False, zorder=3, marker="o", markersize=3.5
        )
        # lines that end together are named in the order in which they came down
        heights = np.interp(everywhere, across, up)
        ends.append((float(heights[-1]) + 1e-6 * float(heights.mean()), name, color))
    if between is not None:
        if len(between) != 2 or not {*between} <= known.keys():
            raise InputError(f"between: expected two names among {', '.join(known)}, got {between!r}")
        (above, below), color = (np.interp(everywhere, *known[name]) for name in between), LINES[0][0]
        axes.fill_between(everywhere, below, above, color=color, alpha=0.12, linewidth=0, zorder=2)
    if chance is not None:
        axes.axhline(chance, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        axes.text(
            0.01 * right, chance + 0.012, "guessing", color=FAINT, fontsize=7.5, va="bottom",
            zorder=4, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    for height, (end, name, color) in zip(style.spread([e[0] for e in ends], 0.062), ends, strict=True):
        style.name_end(axes, name, end, height, color)
    axes.text(0, 1.03, "accuracy", transform=axes.transAxes, fontsize=9, color=FAINT, ha="left", va="bottom")
    style.save(figure, path)


def _checked(name: str, line: Line) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    across, up = (np.asarray(values, dtype=np.float64) for values in line)
    if across.ndim != 1 or across.shape != up.shape or across.size == 0:
        raise InputError(
            f"lines[{name!r}]: expected radii and accuracy of one length, got {across.shape} and {up.shape}"
        )
    return across, up
