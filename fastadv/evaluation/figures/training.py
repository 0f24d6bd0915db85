"""A training by epoch: its loss, and its accuracies with and without attack."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, cycle
from os import PathLike
from typing import TYPE_CHECKING, Any

from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, GREEN, GRID, INK, ORANGE, PURPLE, SKY, VERMILION
from fastadv.runs.checkpoint import read_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTACKED = (VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKED: dict[str, Any] = {"linewidth": 2, "marker": "o", "markersize": 3.5, "clip_on": False, "zorder": 3}
SIDE, STEP = 2.7, 3.45  # inches: the width of each panel, from one to the next


def training(
    reports: Sequence[Any] | str | PathLike[str], path: str | PathLike[str] | None = None, *,
    title: str | None = None,
) -> "Figure":  # fmt: skip
    """Draw the loss of a training by epoch, and beside it the clean accuracy and that under each test attack.

    Lines of the validation set are dashed. Where weights were averaged (`ema`), accuracies are those of the
    average. An epoch with an alarm is marked.

    Args:
        reports: what `fa.train.fit` returned; or the folder of a run, which may still go on.
        path: of a file to write: .png, .pdf or .svg.
        title: above the figure; None is none.

    Returns:
        The matplotlib figure.

    Raises:
        InputError: there are no reports, or the path has another ending.
    """
    if isinstance(reports, str | PathLike):
        epochs = read_report(reports)
    else:
        epochs = [vars(report) for report in reports]
    if not epochs:
        raise InputError("reports: expected those of at least one epoch, got none; train, or name a folder")
    lines = [*_lines(epochs)]
    names = ("loss", "accuracy") if lines else ("loss",)
    width = STEP * len(names)
    figure = style.new_figure(width, 2.7, title)
    height = 0.66 if title else 0.73
    panels = [figure.add_axes((k * STEP / width, 0.17, SIDE / width, height)) for k in range(len(names))]
    numbers, losses = ([epoch[name] for epoch in epochs] for name in ("epoch", "loss"))
    panels[0].plot(numbers, losses, color=INK, **MARKED)
    style.plain(panels[0])
    panels[0].set_ylim(min(0, *losses), 1.05 * max(losses))
    panels[0].grid(axis="y", color=GRID, linewidth=0.8)
    for axes in panels[1:]:
        style.accuracy_axis(axes, 1, "epoch")
        for name, points, color, dash in lines:
            axes.plot(*points, dash, label=name, color=color, **MARKED)
        style.name_lines(axes)
    from matplotlib.ticker import MaxNLocator

    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=9, color=FAINT, loc="left")
        axes.set_xlabel("epoch", fontsize=9, color=INK)
        axes.set_xlim(numbers[0], max(numbers[-1], numbers[0] + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    alarms = {epoch["epoch"]: epoch["alarm"].partition(":")[0] for epoch in epochs if epoch.get("alarm")}
    for number in alarms:
        panels[-1].axvline(number, color=FAINT, linewidth=0.8, linestyle=":")
    panels[-1].set_title(", ".join(alarms.values()), fontsize=8, color=FAINT, loc="right")
    return style.finish(figure, path)


def _lines(epochs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[Any, ...], str, str]]:
    """Yield the name of each line of accuracies, its epochs and shares, its color and its dashes."""
    means = ("ema_clean_accuracy", "validation_ema_clean_accuracy")
    ema = "ema_" if any(epoch.get(name) is not None for epoch in epochs for name in means) else ""
    for kind, dash, on in ("", "-", ""), ("validation_", "--", ", validation"):
        points: dict[str, list[tuple[int, float]]] = {}
        for epoch in epochs:
            attacked = epoch.get(f"{kind}{ema}robust_accuracy", {})
            for name, share in {"clean": epoch.get(f"{kind}{ema}clean_accuracy"), **attacked}.items():
                if share is not None:
                    points.setdefault(name, []).append((epoch["epoch"], share))
        for (name, line), color in zip(points.items(), chain([BLUE], cycle(ATTACKED)), strict=False):
            yield f"{name}{on}", tuple(zip(*line, strict=True)), color, dash
