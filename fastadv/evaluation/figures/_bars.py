"""Nets side by side, a bar for each measure."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

from fastadv.errors import InputError
from fastadv.evaluation.figures.style import GREEN, INK, PURPLE, SKY, VERMILION, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars(
    nets: Mapping[str, Mapping[str, float]],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    reference: Mapping[str, Mapping[str, float]] | None = None,
    reference_name: str = "paper",
) -> None:
    """Nets side by side, each with a bar for each measure.

    nets: {"standard": {"clean": 0.98, "robust": 0.03}, ...}, from 0 to 1. The measures are the same for every
    net, at most four. `reference` holds figures of the same form to set beside them, drawn as ticks and named
    `reference_name`; nets and measures may be missing there.
    """
    measures = list(next(iter(nets.values()), {}))
    if not measures or len(measures) > 4 or any(list(values) != measures for values in nets.values()):
        raise InputError(
            f"nets: expected the same 1 to 4 measures for every net, got {[list(v) for v in nets.values()]}"
        )
    colors = (SKY, VERMILION, GREEN, PURPLE)[: len(measures)]
    thick, gap = 0.17, 0.16
    group = len(measures) * thick + gap
    left, bottom, top = 0.25 + 0.082 * max(len(name) for name in nets), 0.08, 0.74 if title else 0.42
    width, height = left + 4.1, bottom + len(nets) * group + top
    figure = new_figure(width, height, title)
    axes = figure.add_axes((left / width, bottom / height, 3.5 / width, len(nets) * group / height))
    plain(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(nets) * group, 0)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    for place, (name, values) in enumerate(nets.items()):
        start = place * group + gap / 2
        axes.text(
            -0.025, start + len(measures) * thick / 2, name, ha="right", va="center", fontsize=9, color=INK
        )
        for line, (measure, color) in enumerate(zip(measures, colors, strict=True)):
            center, value = start + (line + 0.5) * thick, float(values[measure])
            axes.barh(center, value, height=thick * 0.88, color=color, zorder=2)
            known = (reference or {}).get(name, {}).get(measure)
            after = value
            if known is not None:
                axes.plot(
                    [known, known],
                    [center - thick * 0.48, center + thick * 0.48],
                    color=INK,
                    linewidth=1.8,
                    zorder=4,
                )
                after = known if 0 <= known - value < 0.12 else value
            axes.text(
                after + 0.015, center + 0.005, f"{100 * value:.0f}%", va="center", fontsize=8, color=INK
            )
    across = left / width
    named = [(measure, color) for measure, color in zip(measures, colors, strict=True)]
    for measure, color in named:
        across = _key(figure, across, 1 - (top - 0.2) / height, "■", measure, color)
    if reference:
        _key(figure, across, 1 - (top - 0.2) / height, "|", reference_name, INK)
    save(figure, path)


def _key(figure: "Figure", across: float, height: float, mark: str, name: str, color: str) -> float:
    """Return one entry of a key at `across`; where the next one starts."""
    width = float(figure.get_figwidth())
    figure.text(across, height, mark, fontsize=9, color=color, va="center", fontweight="bold")
    figure.text(across + 0.14 / width, height, name, fontsize=9, color=INK, va="center")
    return across + (0.42 + 0.075 * len(name)) / width
