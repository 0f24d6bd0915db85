"""The curves of section 5: errors, the norm of the weights, and how hard each penalty pulls at it."""

from os import PathLike
from typing import TYPE_CHECKING, Any

from fastadv.evaluation.figures._style import (
    BLUE,
    FAINT,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    new_figure,
    plain,
    save,
)
from fastadv.studies.goodfellow2014.logistic import CLOSED, FGSM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# wide below narrow: where two lines are equal, both are seen
WIDE = {FGSM: 4.0}
DECAYS = (GREEN, ORANGE, PURPLE, INK)


def draw(figures: dict[str, Any], path: str | PathLike[str]) -> None:
    """Draw what `logistic` returned: a panel each for the error under FGSM, |w|₁ and the pull, by epoch."""
    nets = figures["nets"]
    colors = {"plain": FAINT, FGSM: SKY, CLOSED: BLUE}
    decays = [name for name in nets if name not in colors]
    colors |= dict(zip(decays, DECAYS, strict=False))
    named = " against ".join(figures["classes"])
    width, height, wide, gap = 9.6, 3.45, 2.55, 0.6
    figure = new_figure(width, height, f"Logistic regression, {named}: L1 decay never fades")
    panels = (
        ("fgsm", f"error under FGSM {figures['radius']:g}", False),
        ("norm", "|w|₁", True),
        ("pull", "pull of the penalty at |w|₁", True),
    )
    for place, (key, name, log) in enumerate(panels):
        left = 0.5 + place * (wide + gap)
        axes = figure.add_axes((left / width, 0.45 / height, wide / width, 2.05 / height))
        _panel(axes, {net: [row[key] for row in rows["rows"]] for net, rows in nets.items()}, colors, log)
        axes.text(0, 1.03, name, transform=axes.transAxes, fontsize=9, color=INK, va="bottom")
    across = 0.5
    for name in nets:
        figure.text(across / width, 1 - 0.44 / height, "■", fontsize=9, color=colors[name], va="center")
        figure.text((across + 0.14) / width, 1 - 0.44 / height, name, fontsize=8.5, color=INK, va="center")
        across += 0.36 + 0.072 * len(name)
    save(figure, path)


def _panel(axes: "Axes", lines: dict[str, list[float]], colors: dict[str, str], log: bool) -> None:
    plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    for name, values in lines.items():
        if log and not all(values):  # nothing pulls
            continue
        axes.plot(
            range(1, len(values) + 1), values, color=colors[name], linewidth=WIDE.get(name, 1.6), zorder=3
        )
    if log:
        axes.set_yscale("log")
        axes.minorticks_off()
    else:
        axes.set_ylim(0, 1)
    axes.set_xlabel("epoch", fontsize=9, color=INK)
