"""Nets side by side, a bar for each measure."""

from collections.abc import Mapping
from os import PathLike

from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import FAINT, GREEN, GRID, INK, PURPLE, SKY, VERMILION

COLORS = (SKY, VERMILION, GREEN, PURPLE)
THICK, GAP = 0.17, 0.16  # inches of a bar, and between two nets
WIDE = 0.12  # of the axis, what a number takes


def bars(
    nets: Mapping[str, Mapping[str, float]],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    reference: Mapping[str, Mapping[str, float]] | None = None,
    reference_name: str = "paper",
    subtitle: str = "",
    chance: float | None = None,
) -> None:
    """Draw networks side by side, each with a bar for each measure.

    Args:
        nets: {"standard": {"clean": 0.98, "robust": 0.03}, ...}, from 0 to 1. The measures are the same for
            every network, at most four. A name may have two lines.
        path: of the picture: .png, .pdf or .svg.
        title: above the bars; None is none.
        reference: figures of the same form to compare with, drawn as ticks; networks and measures may be
            missing there.
        reference_name: of these figures.
        subtitle: below the title, in gray; it may have several lines.
        chance: draws the accuracy of guessing; None does not.

    Raises:
        InputError: the measures differ or are too many, or the path has another ending.
    """
    measures = list(next(iter(nets.values()), {}))
    if not 1 <= len(measures) <= len(COLORS) or any(list(values) != measures for values in nets.values()):
        raise InputError(
            f"nets: expected the same 1 to 4 measures for every net, got {[list(v) for v in nets.values()]}"
        )
    style.check_path(path)  # and that matplotlib is there
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    group = len(measures) * THICK + GAP
    longest = max(len(line) for name in nets for line in name.split("\n"))
    told = 0.16 * len(subtitle.split("\n")) if subtitle else 0.0
    left, bottom, top = 0.25 + 0.075 * longest, 0.3, (0.74 if title else 0.42) + told
    width, height = left + 4.1, bottom + len(nets) * group + top
    figure = style.new_figure(width, height, title)
    axes = figure.add_axes((left / width, bottom / height, 3.5 / width, len(nets) * group / height))
    style.plain(axes)
    axes.set(xlim=(0, 1), ylim=(len(nets) * group, 0))
    axes.set_yticks([(place + 0.5) * group for place in range(len(nets))], list(nets), fontsize=9)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    if subtitle:
        down = 1 - (0.32 if title else 0.08) / height
        figure.text(0.08 / width, down, subtitle, fontsize=8, color=FAINT, va="top", linespacing=1.35)
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=3)
    for place, (name, values) in enumerate(nets.items()):
        for line, measure in enumerate(measures):
            center, value = place * group + GAP / 2 + (line + 0.5) * THICK, float(values[measure])
            axes.barh(center, value, height=THICK * 0.88, color=COLORS[line], zorder=2)
            known = (reference or {}).get(name, {}).get(measure)
            after, side = value + 0.015, "left"
            if known is not None:
                ends = center - THICK * 0.48, center + THICK * 0.48
                axes.plot([known, known], ends, color=INK, linewidth=1.8, zorder=4)
                if 0 <= known - value < WIDE:  # a number beyond the tick would be read as the tick's
                    after, side = (value - 0.01, "right") if value > WIDE else (known + 0.015, "left")
            halo = [withStroke(linewidth=2, foreground="white")] if side == "left" else []
            axes.text(
                after, center + 0.005, f"{100 * value:.0f}%", ha=side, va="center", fontsize=8, color=INK,
                zorder=5, path_effects=halo,
            )  # fmt: skip
    entries = [(measure, "s", color) for measure, color in zip(measures, COLORS, strict=False)]
    entries += [(reference_name, "|", INK)] if reference else []
    entries += [("guessing", ":", INK)] if chance is not None else []
    style.key(figure, left, top - 0.2, entries)
    style.save(figure, path)
