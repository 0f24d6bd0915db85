"""The curves of section 5: errors and the norm of the weights by epoch, and each penalty's pull by margin."""

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, GREEN, GRID, INK, ORANGE, PURPLE, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FGSM, CLOSED = "FGSM training", "closed form"
PLAIN = "plain"
WIDTHS = {FGSM: 4.5, PLAIN: 4.5}  # below a narrow line: where the two are equal, both are seen
DECAYS = (GREEN, ORANGE, PURPLE, INK)
BESIDE = 3.0  # margins are drawn up to so many times the adversary's worst case


def draw(figures: dict[str, Any], path: str | PathLike[str]) -> None:
    """Draw what `logistic` returned: clean error, error under FGSM and |w|₁ by epoch; the pulls at its end.

    The pull of a penalty is its derivative by |w|₁ on one image: c for L1 decay, radius · sigmoid(radius ·
    |w|₁ - margin) for adversarial training, which fades where the margin is large.
    """
    from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, ScalarFormatter

    nets = {name: net["rows"] for name, net in figures["nets"].items()}
    colors = {PLAIN: FAINT, FGSM: SKY, CLOSED: BLUE}
    colors |= dict(zip([name for name in nets if name not in colors], DECAYS, strict=False))
    named = " against ".join(figures["classes"])
    width, height, wide, gap = 10.9, 3.45, 2.1, 0.6
    figure = style.new_figure(
        width, height, f"Logistic regression, {named}: in closed form, by examples, and with L1 decay"
    )
    axes = []
    for place in range(4):
        left = 0.5 + place * (wide + gap)
        axes.append(figure.add_axes((left / width, 0.45 / height, wide / width, 1.95 / height)))
    titles = {
        "clean": "clean error",
        "fgsm": f"error under FGSM {figures['radius']:g}",
        "norm": "|w|₁ (log scale)",
    }
    for (key, title), panel in zip(titles.items(), axes, strict=False):
        _prepare(panel, title, "epoch")
        for net, rows in nets.items():
            values, epochs = [row[key] for row in rows], range(1, len(rows) + 1)
            panel.plot(epochs, values, color=colors[net], linewidth=WIDTHS.get(net, 1.6), zorder=3)
    for panel, most in zip(axes, (None, 1.04), strict=False):
        panel.set_ylim(0, most)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[2].set_yscale("log")
    axes[2].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[2].yaxis.set_minor_locator(NullLocator())
    axes[2].yaxis.set_major_formatter(ScalarFormatter())
    _pulls(axes[3], figures, colors)
    across, up = 0.5, 1 - 0.42 / height
    for name in nets:
        figure.text(across / width, up, "■", fontsize=9, color=colors[name], va="center")
        figure.text((across + 0.14) / width, up, name, fontsize=8.5, color=INK, va="center")
        across += 0.36 + 0.072 * len(name)
    told = f"an epoch by FGSM examples takes {figures['faster']:.1f} × closed form"
    figure.text(across / width, up, told, fontsize=8.5, color=FAINT, va="center")
    style.save(figure, path)


def _pulls(axes: "Axes", figures: dict[str, Any], colors: dict[str, str]) -> None:
    _prepare(axes, "how hard one image shrinks |w|₁", "margin of the image")
    radius, last = figures["radius"], figures["nets"][CLOSED]["rows"][-1]
    worst, mean = radius * last["norm"], last["margin"]
    margins = np.linspace(0, BESIDE * worst, 201)
    for name in (FGSM, CLOSED):
        pull = radius / (1 + np.exp(margins - worst))
        axes.plot(margins, pull, color=colors[name], linewidth=WIDTHS.get(name, 1.6), zorder=3)
    for name, net in figures["nets"].items():
        if name not in ("plain", FGSM, CLOSED):
            axes.axhline(net["rows"][-1]["pull"], color=colors[name], linewidth=1.6, zorder=3)
    axes.axvline(mean, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.text(mean, 0.85, " mean margin", color=FAINT, fontsize=7.5, transform=axes.get_xaxis_transform())
    axes.set_xlim(0, margins[-1])
    axes.set_ylim(bottom=-0.006)


def _prepare(axes: "Axes", name: str, across: str) -> None:
    style.plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.text(0, 1.03, name, transform=axes.transAxes, fontsize=9, color=INK, va="bottom")
