"""The figure of scaling: time against each size, the fitted power of the work, and the ceiling."""

from typing import TYPE_CHECKING

import numpy as np

from bench.page.numbers import duration
from bench.page.rows import Row, Rows
from fastadv.evaluation.figures.style import BLUE, FAINT, INK, VERMILION, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEGIN = "scaling of "
WORDS = {"side": "image side", "batch": "images"}
WIDE, TALL, LEFT, ABOVE, GAP = 1.72, 1.1, 0.95, 0.62, 0.62  # inches


def measured(rows: Rows) -> dict[str, dict[str, list[Row]]]:
    """By what is run and by axis: the rows of fastadv and of the ceiling."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows.newest.values():
        if "sizes" in row and row["what"].startswith(BEGIN):
            name = row["what"].removeprefix(BEGIN).removesuffix(f" with {row['axis']}")
            found.setdefault(name, {}).setdefault(row["axis"], []).append(row)
    return found


def split(known: list[Row]) -> tuple[Row, Row]:
    """The row of fastadv and that of the ceiling."""
    ceiling, ours = sorted(known, key=lambda row: row["provider"].startswith("fastadv"))
    return ours, ceiling


def faster_than_work(rows: Rows) -> list[str]:
    """What of fastadv grows faster than its work, in words."""
    pairs = {
        f"{name} with {WORDS.get(axis, axis)}": split(known)
        for name, axes in measured(rows).items()
        for axis, known in axes.items()
    }
    return [
        f"{name}, exponent {ours['exponent']:.2f} (the ceiling's: {ceiling['exponent']:.2f})"
        for name, (ours, ceiling) in pairs.items()
        if ours.get("grows_faster_than_work")
    ]


def draw(rows: Rows) -> "Figure":
    """A line of panels for each thing that is run, a panel for each size."""
    found = measured(rows)
    across = LEFT + max(map(len, found.values())) * (WIDE + 0.25)
    height = ABOVE + len(found) * (TALL + GAP)
    title = "Time grows no faster than the work: time ~ work^e"
    if faster_than_work(rows):
        title = "Time against the work: time ~ work^e; in color where e is above 1.1"
    figure = new_figure(across, height, title)
    for number, (name, axes_of) in enumerate(found.items()):
        bottom = height - ABOVE - (number + 1) * TALL - number * GAP
        figure.text(
            0.02, (bottom + TALL / 2) / height, name.replace(", ", ",\n"), fontsize=9, color=INK, va="center"
        )
        for place, (axis, known) in enumerate(axes_of.items()):
            left = LEFT + place * (WIDE + 0.25)
            box = (left / across, bottom / height, (WIDE - 0.25) / across, TALL / height)
            panel(figure.add_axes(box), axis, known)
    figure.text(
        LEFT / across, 0.12 / height,
        "blue: fastadv    dotted: the fit    gray, and in brackets: the ceiling, the passes alone or a copy"
        "    threads: the work stays the same, -1 is ideal",
        fontsize=8, color=INK,
    )  # fmt: skip
    return figure


def panel(axes: "Axes", axis: str, known: list[Row]) -> None:
    plain(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ours, ceiling = split(known)
    sizes, taken = ours["sizes"], ours["p50_ms_at"]
    axes.plot(ceiling["sizes"], ceiling["p50_ms_at"], color=FAINT, linewidth=1.2, zorder=2)
    axes.plot(sizes, taken, color=BLUE, linewidth=1.8, marker="o", markersize=3, zorder=3)
    said, color = WORDS.get(axis, axis), INK
    if "exponent" in ours:
        slope, level = np.polyfit(np.log(sizes), np.log(taken), 1)
        axes.plot(sizes, np.exp(level) * np.array(sizes) ** slope, ":", color=INK, linewidth=1, zorder=4)
        said += f": e = {ours['exponent']:.2f} ({ceiling['exponent']:.2f})"
        color = VERMILION if ours["grows_faster_than_work"] else INK
    axes.set_title(said, fontsize=8.5, color=color, loc="left", pad=3)
    axes.set_xticks([sizes[0], sizes[-1]], [f"{sizes[0]:,}", f"{sizes[-1]:,}"])
    axes.set_yticks([min(taken), max(taken)], [duration(min(taken)), duration(max(taken))], fontsize=7.5)
    axes.minorticks_off()
