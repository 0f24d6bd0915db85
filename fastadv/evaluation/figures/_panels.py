"""Accuracy against distance in several panels side by side, each line beside its reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures._curves import Line, checked_line
from fastadv.evaluation.figures.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION

COLORS = (INK, GREEN, ORANGE, VERMILION, PURPLE, BLUE)
WIDTH, HEIGHT, GAP = 2.9, 2.3, 0.3  # inches of a panel, and between two


@dataclass(frozen=True)
class Panel:
    """One panel of accuracy against distance, in one norm.

    Args:
        name: of the horizontal axis.
        right: where it ends.
        lines: by name, as (distances, accuracy), accuracy from 0 to 1.
        reference: by name, as (distances, accuracy), drawn thin and dashed.
        mark: a distance at which a vertical line is drawn; None draws none.
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
    mark: str = "",
) -> None:
    """Draw panels side by side; a name has the same color in each of them.

    Args:
        parts: the panels, with at most six names.
        path: of the picture: .png, .pdf or .svg.
        title: above the panels; None is none.
        drawn: what the solid lines are, for the key.
        reference: what the thin dashed lines are, for the key.
        mark: what the vertical lines are, for the key.

    Raises:
        InputError: there are no panels or too many names, or lengths of lines differ.
    """
    names = list(dict.fromkeys(name for part in parts for name in (*part.lines, *part.reference)))
    if not 1 <= len(names) <= len(COLORS):
        raise InputError(f"parts: expected 1 to {len(COLORS)} names of lines, got {len(names)}")
    colors = dict(zip(names, COLORS, strict=False))
    marked = any(part.mark is not None for part in parts)
    named = ((drawn, "-"), (reference, "--"), (mark if marked else "", ":"))
    lines_told = [(name, dash) for name, dash in named if name]
    told = 0.22 if lines_told else 0.0
    left, bottom, top = 0.62, 0.45, (0.78 if title else 0.48) + told
    width, height = left + len(parts) * (WIDTH + GAP), bottom + HEIGHT + top
    figure = style.new_figure(width, height, title)
    for place, part in enumerate(parts):
        across = (left + place * (WIDTH + GAP)) / width
        axes = figure.add_axes((across, bottom / height, WIDTH / width, HEIGHT / height))
        style.accuracy_axis(axes, part.right, part.name)
        if part.mark is not None:
            axes.axvline(part.mark, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        for lines, dash, thick in ((part.reference, (0, (3, 1.5)), 1.1), (part.lines, "-", 2.0)):
            for name, line in lines.items():
                along, up = checked_line(f"{part.name}, {name}", line)
                axes.plot(along, up, linestyle=dash, color=colors[name], linewidth=thick, zorder=3)
        if place:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("accuracy", fontsize=9, color=INK)
    style.key(figure, left, top - 0.2 - told, [(name, "s", color) for name, color in colors.items()])
    if lines_told:
        style.key(figure, left, top - 0.2, [(name, dash, FAINT) for name, dash in lines_told])
    style.save(figure, path)
