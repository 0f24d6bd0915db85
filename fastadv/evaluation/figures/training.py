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
SIDE, LEFT, APART = 2.7, 0.4, 0.75  # inches: the width of each panel, what is left of the first, between both


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

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> figure = fa.figures.training(fa.train.fit(model, digits, "standard", epochs=2, test_set=digits))
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['loss', 'accuracy']
    """
    if isinstance(reports, str | PathLike):
        epochs = read_report(reports)
    else:
        epochs = [vars(report) for report in reports]
    if not epochs:
        raise InputError("reports: expected those of at least one epoch, got none; train, or name a folder")
    lines = [*_lines(epochs)]
    width = LEFT + SIDE + (APART + SIDE if lines else 0)
    figure = style.new_figure(width, 2.7, title)
    panels = [
        figure.add_axes((left / width, 0.17, SIDE / width, 0.66 if title else 0.73))
        for left in (LEFT, LEFT + SIDE + APART)[: 2 if lines else 1]
    ]
    numbers, losses = zip(*((epoch["epoch"], epoch["loss"]) for epoch in epochs), strict=True)
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

    for axes, name in zip(panels, ("loss", "accuracy"), strict=False):
        axes.set_title(name, fontsize=9, color=FAINT, loc="left")
        axes.set_xlabel("epoch", fontsize=9, color=INK)
        axes.set_xlim(numbers[0] - 0.5 * (len(epochs) == 1), numbers[-1] + 0.5 * (len(epochs) == 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    marked: dict[str, Any] = {"fontsize": 7.5, "color": FAINT, "rotation": 90, "va": "top", "ha": "right"}
    for epoch in epochs:
        if alarm := epoch.get("alarm"):
            panels[-1].axvline(epoch["epoch"], color=FAINT, linewidth=0.8, linestyle=":")
            panels[-1].text(epoch["epoch"], 0.98, alarm.partition(":")[0], **marked)
    return style.finish(figure, path)


def _lines(epochs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[Any, ...], str, str]]:
    """Yield the name of each line of accuracies, its epochs and shares, its color and its dashes."""
    means = ("ema_clean_accuracy", "validation_ema_clean_accuracy")
    ema = "ema_" if any(epoch.get(name) is not None for epoch in epochs for name in means) else ""
    for kind, dash, on in ("", "-", ""), ("validation_", "--", ", validation"):
        shares = [
            {"clean": epoch.get(f"{kind}{ema}clean_accuracy"), **epoch.get(f"{kind}{ema}robust_accuracy", {})}
            for epoch in epochs
        ]
        names = dict.fromkeys(name for one in shares for name in one)
        for name, color in zip(names, chain([BLUE], cycle(ATTACKED)), strict=False):
            points = [
                (epoch["epoch"], one[name])
                for epoch, one in zip(epochs, shares, strict=True)
                if one.get(name) is not None
            ]
            if points:
                yield f"{name}{on}", tuple(zip(*points, strict=True)), color, dash
