"""Usefulness against robust usefulness, a point for each feature and class."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from numpy.typing import NDArray

from papers import drawing as style
from papers.drawing import BLUE, FAINT, GRID, INK, VERMILION
from papers.ilyas2019.usefulness import GAMMA, RHO, Kind, Usefulness

COLORS = {Kind.ROBUST: BLUE, Kind.NON_ROBUST: VERMILION, Kind.USELESS: FAINT}
LINEAR = 2.0  # where gamma lies further below zero, it is drawn logarithmically there


def scatter(
    nets: Mapping[str, Usefulness],
    path: str | PathLike[str],
    *,
    rho: float = RHO,
    gamma: float = GAMMA,
    title: str | None = None,
) -> None:
    """Draw a panel for each network, with a point for each of its features and classes at (rho, gamma).

    Lines at the thresholds separate the robust, the non-robust and the useless features; the key says how
    many features of the network are of each kind, for the class that each serves best, which has a full
    point; a ring is the same feature for another class. Without an adversary all points would lie on the
    dotted line gamma = rho. Below -2 gamma is drawn on a logarithmic scale.
    """
    width, top = 3.1, 0.85 if title else 0.55
    figure = style.new_figure(0.75 + len(nets) * width, 3.0 + top, title)
    points = {name: _points(net, rho, gamma) for name, net in nets.items()}
    right = 1.08 * max(rho, *(across.max(initial=0) for across, *_ in points.values()))
    lowest = min(-0.3, *(up.min(initial=0) for _, up, *_ in points.values()))
    for place, (name, (across, up, kinds, best)) in enumerate(points.items()):
        wide, high = figure.get_size_inches()
        axes = figure.add_axes(((0.65 + place * width) / wide, 0.5 / high, (width - 0.3) / wide, 2.4 / high))
        style.plain(axes)
        if lowest < -LINEAR:
            axes.set_yscale("symlog", linthresh=LINEAR, linscale=2)
        axes.set(xlim=(0, right), ylim=(1.08 * lowest, 1.08 * max(right, 0.3)))
        axes.grid(color=GRID, linewidth=0.6)
        axes.plot([0, right], [0, right], color=FAINT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=2)
        axes.plot([rho, right], [gamma, gamma], color=INK, linewidth=0.9, zorder=2)
        axes.axvline(rho, color=INK, linewidth=0.9, zorder=2)
        for kind, color in COLORS.items():
            of = kinds == kind
            first, other = of & best, of & ~best
            axes.scatter(
                across[other], up[other], s=7, facecolor="none", edgecolor=color, alpha=0.4, linewidths=0.5,
                zorder=3,
            )  # fmt: skip
            axes.scatter(across[first], up[first], s=16, color=color, linewidths=0, zorder=4)
        count = len(nets[name].rho)
        for line, (kind, share) in enumerate(nets[name].shares(rho, gamma).items()):
            axes.text(
                (0.0, 0.31, 0.73)[line], 1.02, f"{share * count:.0f} {kind.title}", fontsize=8,
                fontweight="bold", color=COLORS[kind], transform=axes.transAxes, va="bottom",
            )  # fmt: skip
        axes.set_title(f"{name}: of {count} features", fontsize=9.5, color=INK, loc="left", pad=20)
        axes.set_xlabel("usefulness ρ = E[y f(x)]", fontsize=9, color=INK)
        if place:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("robust usefulness γ = E[inf y f(x + δ)]", fontsize=9, color=INK)
    said = "●  a feature, for the class that it serves best (counted above)     ○  the same for another class"
    figure.text(0.65 / figure.get_size_inches()[0], -0.02, said, fontsize=8, color=FAINT, va="top")
    style.save(figure, path)


def _points(net: Usefulness, rho: float, gamma: float) -> list[NDArray[Any]]:
    """Return rho, gamma and kind of each varying feature and class, and which class counts; each [N]."""
    drawn, kinds = ~net.constant, net.kinds(rho, gamma)
    counted = torch.where(kinds == kinds.amax(1, keepdim=True), net.rho, -1.0)
    best = torch.zeros_like(kinds, dtype=torch.bool).scatter(1, counted.argmax(1, keepdim=True), True)
    return [each[drawn].flatten().cpu().numpy() for each in (net.rho, net.gamma, kinds, best)]
