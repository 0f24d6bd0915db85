"""Figures: rows of images, accuracy against radius, trainings, decision boundaries, what transfers.

Each is returned as a matplotlib figure, which a notebook shows, and with a path is written, atomically, as
png, pdf or svg. They use matplotlib's objects alone: no pyplot, no global state, no display. Colors are Okabe
and Ito's, which people with color blindness can tell apart.
"""

from collections.abc import Mapping
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.boundary import boundary
from fastadv.evaluation.figures.images import Strip, strips
from fastadv.evaluation.figures.style import BLUE, FAINT, GRID, INK, LINES, VERMILION, check_path
from fastadv.evaluation.figures.thumbnails import thumbnails
from fastadv.evaluation.figures.training import training
from fastadv.text import ends, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastadv.evaluation.transferability import Transferability

__all__ = [
    "BLUE", "VERMILION", "Strip", "boundary", "check_path", "curves", "strips", "thumbnails", "training",
    "transferability",
]  # fmt: skip

MARKED = 40  # points of a line, beyond which they are drawn without marks
Line = tuple[ArrayLike, ArrayLike]


def curves(
    lines: Mapping[str, Line], path: str | PathLike[str] | None = None, *, radius: str = "radius",
    title: str | None = None, chance: float | None = None, between: tuple[str, str] | None = None,
) -> "Figure":  # fmt: skip
    """Draw accuracy against radius, one line for each name, named at its right.

    Args:
        lines: {name: (radii, accuracy)}, as `accuracy_against_radius` returns, accuracy from 0 to 1; at most
            six.
        path: of a file to write: .png, .pdf or .svg.
        radius: the name of the axis ("L∞ radius").
        title: above the figure; None is none.
        chance: draws the accuracy of guessing; None does not.
        between: two names, of what an attack leaves and of what is certified: the accuracy against every
            attack lies between these lines, and the figure fills what they leave open.

    Returns:
        The matplotlib figure.

    Raises:
        InputError: there are no lines or too many, lengths differ, or `between` names others.
    """
    if not isinstance(lines, Mapping) or not 1 <= len(lines) <= len(LINES):
        got = len(lines) if isinstance(lines, Mapping) else type(lines).__name__
        raise InputError(f"lines: expected 1 to {len(LINES)} curves by name, got {got}; draw several figures")
    known = {name: _checked(name, line) for name, line in lines.items()}
    if between is not None and (len(between) != 2 or not {*between} <= known.keys()):
        raise InputError(f"between: expected two names among {', '.join(known)}, got {between!r}")
    figure = style.new_figure(5.6, 3.4, title)
    axes = figure.add_axes((0.1, 0.15, 0.7, 0.68 if title else 0.76))
    right = max(float(across[-1]) for across, _ in known.values()) or 1.0
    style.accuracy_axis(axes, right, radius)
    axes.set_title("accuracy", fontsize=9, color=FAINT, loc="left")
    for (name, (across, up)), (color, dash) in zip(known.items(), LINES, strict=False):
        axes.plot(
            across, up, dash, label=name, color=color, linewidth=2, clip_on=False, zorder=3, markersize=3.5,
            marker="o" if len(across) <= MARKED else "",
        )  # fmt: skip
    if between is not None:
        everywhere = np.linspace(0, right, 1001)
        above, below = (np.interp(everywhere, *known[name]) for name in between)
        axes.fill_between(everywhere, below, above, color=BLUE, alpha=0.12, linewidth=0, zorder=2)
    if chance is not None:
        axes.axhline(chance, label="guessing", color=FAINT, linewidth=0.8, linestyle=":", zorder=1)
    style.name_lines(axes)
    return style.finish(figure, path)


def _checked(name: str, line: Line) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    across, up = (np.asarray(values, dtype=np.float64) for values in line)
    if across.ndim != 1 or across.shape != up.shape or across.size == 0:
        raise InputError(
            f"lines[{name!r}]: expected radii and accuracy of one length, got {across.shape} and {up.shape}"
        )
    return across, up


def transferability(
    table: "Transferability", path: str | PathLike[str] | None = None, *, title: str | None = None
) -> "Figure":
    """Draw how often examples of each source, a row, fool each target, a column, with 95% intervals.

    Args:
        table: as `fastadv.transferability` returns it.
        path: of a file to write: .png, .pdf or .svg.
        title: above the figure; None is none.

    Returns:
        The matplotlib figure.

    Raises:
        InputError: the path has another ending.
    """
    shares, (low, high) = table.success.numpy(), table.interval
    figure = style.new_figure(1.1 * len(table.targets), 0.55 * len(table.sources))
    from matplotlib.colors import LinearSegmentedColormap

    axes = figure.add_axes((0, 0, 1, 1))
    colors = LinearSegmentedColormap.from_list("", ["#FCF1E8", VERMILION]).with_extremes(bad=GRID)
    axes.pcolormesh(np.ma.masked_invalid(shares), cmap=colors, vmin=0, vmax=1, edgecolors="w", linewidth=2)
    style.plain(axes)
    axes.spines["bottom"].set_visible(False)
    axes.invert_yaxis()
    axes.xaxis.set(ticks_position="top", label_position="top")
    slanted: dict[str, Any] = {"rotation": 25, "ha": "left"} if max(map(len, table.targets)) > 13 else {}
    axes.set_xticks(np.arange(len(table.targets)) + 0.5, table.targets, **slanted)
    axes.set_yticks(np.arange(len(table.sources)) + 0.5, table.sources)
    axes.set_xlabel("fooled, of what it gets right", fontsize=9, color=FAINT, loc="left", labelpad=7)
    axes.set_ylabel("examples made on", fontsize=9, color=FAINT, loc="top")
    axes.set_title(title or "", fontsize=10.5, fontweight="bold", color=INK, loc="left")
    for (row, column), share in np.ndenumerate(shares):
        write = partial(axes.text, column + 0.5, ha="center", va="center", color="w" if share > 0.8 else INK)
        write(row + 0.4, percent(share), fontsize=10)
        write(row + 0.72, ends(low[row, column], high[row, column]), fontsize=7)
    return style.finish(figure, path)
