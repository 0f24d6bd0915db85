"""The curves of section 5: errors and the norm of the weights by epoch, and each penalty's pull by margin."""

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadv.evaluation.figures.style import (
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

WIDE = {FGSM: 4.5}  # below a narrow line: where the two are equal, both are seen
DECAYS = (GREEN, ORANGE, PURPLE, INK)
BESIDE = 3.0  # margins are drawn up to so many times the adversary's worst case


def draw(figures: dict[str, Any], path: str | PathLike[str]) -> None:
    """Draw what `logistic` returned: clean error, error under FGSM and |w|₁ by epoch; the pulls at its end.

    The pull of a penalty is its derivative by |w|₁ on one image: c for L1 decay, radius · sigmoid(radius ·
    |w|₁ - margin) for adversarial training, which fades where the margin is large.
    """
    nets = {name: net["rows"] for name, net in figures["nets"].items()}
    colors = {"plain": FAINT, FGSM: SKY, CLOSED: BLUE}
    colors |= dict(zip([name for name in nets if name not in colors], DECAYS, strict=False))
    named = " against ".join(figures["classes"])
    width, height, wide, gap = 10.9, 3.45, 2.1, 0.6
    figure = new_figure(
        width, height, f"Logistic regression, {named}: in closed form, by examples, and with L1 decay"
    )
    axes = []
    for place in range(4):
        left = 0.5 + place * (wide + gap)
        axes.append(figure.add_axes((left / width, 0.45 / height, wide / width, 1.95 / height)))
    radius = figures["radius"]
    for key, name, panel in zip(
        ("clean", "fgsm", "norm"), ("clean error", f"error under FGSM {radius:g}", "|w|₁"), axes, strict=False
    ):
        _prepare(panel, name, "epoch")
        for net, rows in nets.items():
            values = [row[key] for row in rows]
            panel.plot(
                range(1, len(values) + 1), values, color=colors[net], linewidth=WIDE.get(net, 1.6), zorder=3
            )
    _in_percent(axes[0], None)
    _in_percent(axes[1], 1.0)
    _logarithmic(axes[2])
    _pulls(axes[3], figures, colors)
    across = 0.5
    for name in nets:
        figure.text(across / width, 1 - 0.42 / height, "■", fontsize=9, color=colors[name], va="center")
        figure.text((across + 0.14) / width, 1 - 0.42 / height, name, fontsize=8.5, color=INK, va="center")
        across += 0.36 + 0.072 * len(name)
    told = f"an epoch of FGSM training: {figures['faster']:.1f} × closed form"
    figure.text(across / width, 1 - 0.42 / height, told, fontsize=8.5, color=FAINT, va="center")
    save(figure, path)


def _pulls(axes: "Axes", figures: dict[str, Any], colors: dict[str, str]) -> None:
    _prepare(axes, "pull on |w|₁ by one image", "its margin")
    radius, last = figures["radius"], figures["nets"][CLOSED]["rows"][-1]
    worst = radius * last["norm"]
    margins = np.linspace(0, BESIDE * worst, 201)
    for name in (FGSM, CLOSED):
        pull = radius / (1 + np.exp(margins - worst))
        axes.plot(margins, pull, color=colors[name], linewidth=WIDE.get(name, 1.6), zorder=3)
    for name, net in figures["nets"].items():
        if name not in ("plain", FGSM, CLOSED):
            axes.axhline(net["rows"][-1]["pull"], color=colors[name], linewidth=1.6, zorder=3)
    axes.axvline(last["margin"], color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.text(
        last["margin"], 0.02, " the mean", color=FAINT, fontsize=7.5, transform=axes.get_xaxis_transform()
    )
    axes.set_xlim(0, margins[-1])
    axes.set_ylim(bottom=0)


def _prepare(axes: "Axes", name: str, across: str) -> None:
    plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.text(0, 1.03, name, transform=axes.transAxes, fontsize=9, color=INK, va="bottom")


def _in_percent(axes: "Axes", most: float | None) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(0, most)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
