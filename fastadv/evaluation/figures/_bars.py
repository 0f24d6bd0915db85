"""Nets side by side, a bar for each measure."""

from collections.abc import Mapping
from os import PathLike

from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import GREEN, INK, PURPLE, SKY, VERMILION

COLORS = (SKY, VERMILION, GREEN, PURPLE)
THICK, GAP = 0.17, 0.16  # inches of a bar, and between two nets


def bars(
    nets: Mapping[str, Mapping[str, float]],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    reference: Mapping[str, Mapping[str, float]] | None = None,
    reference_name: str = "paper",
) -> None:
    """Draw networks side by side, each with a bar for each measure.

    Args:
        nets: {"standard": {"clean": 0.98, "robust": 0.03}, ...}, from 0 to 1. The measures are the same for
            every network, at most four.
        path: of the picture: .png, .pdf or .svg.
        title: above the bars; None is none.
        reference: figures of the same form to compare with, drawn as ticks; networks and measures may be
            missing there.
        reference_name: of these figures.

    Raises:
        InputError: the measures differ or are too many, or the path has another ending.
    """
    measures = list(next(iter(nets.values()), {}))
    if not 1 <= len(measures) <= len(COLORS) or any(list(values) != measures for values in nets.values()):
        raise InputError(
            f"nets: expected the same 1 to 4 measures for every net, got {[list(v) for v in nets.values()]}"
        )
    group = len(measures) * THICK + GAP
    left, bottom, top = 0.25 + 0.082 * max(len(name) for name in nets), 0.08, 0.74 if title else 0.42
    width, height = left + 4.1, bottom + len(nets) * group + top
    figure = style.new_figure(width, height, title)
    axes = figure.add_axes((left / width, bottom / height, 3.5 / width, len(nets) * group / height))
    style.plain(axes)
    axes.spines["bottom"].set_visible(False)
    axes.set(xlim=(0, 1), ylim=(len(nets) * group, 0), xticks=[])
    axes.set_yticks([(place + 0.5) * group for place in range(len(nets))], list(nets), fontsize=9)
    for place, (name, values) in enumerate(nets.items()):
        for line, measure in enumerate(measures):
            center, value = place * group + GAP / 2 + (line + 0.5) * THICK, float(values[measure])
            axes.barh(center, value, height=THICK * 0.88, color=COLORS[line], zorder=2)
            known = (reference or {}).get(name, {}).get(measure)
            after = value
            if known is not None:
                ends = center - THICK * 0.48, center + THICK * 0.48
                axes.plot([known, known], ends, color=INK, linewidth=1.8, zorder=4)
                after = known if 0 <= known - value < 0.12 else value
            axes.text(
                after + 0.015, center + 0.005, f"{100 * value:.0f}%", va="center", fontsize=8, color=INK
            )
    entries = [(measure, "s", color) for measure, color in zip(measures, COLORS, strict=False)]
    style.key(figure, left, top - 0.2, entries + ([(reference_name, "|", INK)] if reference else []))
    style.save(figure, path)
