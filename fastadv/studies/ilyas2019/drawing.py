"""The figures of section 4: learned classes as ellipses, and the curves of theorems 1 and 3."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastadv.evaluation.figures.style import BLUE, FAINT, GRID, INK, VERMILION, new_figure, plain, save
from fastadv.studies.ilyas2019 import gaussian
from fastadv.studies.ilyas2019.learned import Learned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 150


def ellipses(mean: Tensor, covariance: Tensor, learned: Sequence[Learned], path: Path) -> None:
    """Draw a panel for each radius: both classes as learned, the boundary, the mean and the input gradient.

    Solid ellipses, at two deviations, are those of theorem 2; crosses lie on what adversarial training
    learned.
    """
    each, title = 2.75, "The more an adversary may move, the rounder the classes learned"
    width = 0.4 + each * len(learned)
    figure = new_figure(width, 3.35, title)
    most = 2.1 * max(float(torch.linalg.eigvalsh(one.theorem)[-1].sqrt()) for one in learned)
    reach = most + float(mean.norm())
    cloud = gaussian.whitened(covariance, 2 * SHOWN)
    for place, one in enumerate(learned):
        axes = figure.add_axes(((0.35 + place * each) / width, 0.12, (each - 0.2) / width, 0.66))
        plain(axes)
        axes.set(xlim=(-reach, reach), ylim=(-0.9 * reach, 0.9 * reach), aspect="equal")
        axes.grid(color=GRID, linewidth=0.6)
        for side, color, part in ((1, BLUE, cloud[:SHOWN]), (-1, VERMILION, cloud[SHOWN:])):
            axes.plot(*(side * mean + part).T.numpy(), ".", color=color, markersize=1.5, alpha=0.5)
            axes.plot(*_ellipse(side * mean, one.theorem, 200), color=color, linewidth=1.6)
            crosses = _ellipse(side * one.trained_mean, one.trained, 24)
            axes.plot(*crosses, "x", color=INK, markersize=2.6, zorder=4)
        gradient = torch.linalg.solve(one.theorem, mean)
        along = torch.stack([-gradient[1], gradient[0]]) / gradient.norm() * 3 * reach
        axes.plot(*torch.stack([-along, along]).T.numpy(), color=FAINT, linewidth=0.9, linestyle="--")
        _arrow(axes, mean / mean.norm() * 0.55 * reach, FAINT)
        _arrow(axes, gradient / gradient.norm() * 0.55 * reach, INK)
        axes.tick_params(labelleft=place == 0)
        name = "maximum likelihood" if one.radius == 0 else f"robust, radius {one.radius:g}"
        axes.set_title(name, fontsize=9.5, color=INK, loc="left", pad=4)
    figure.text(
        0.02, 0.01, "dots: samples    ellipses: theorem 2, two deviations    crosses: by adversarial training"
        "    dashed: boundary    black arrow: input gradient    gray arrow: mean",
        fontsize=7.5, color=FAINT,
    )  # fmt: skip
    save(figure, path)


def theorems(covariance: Tensor, radius: float, path: Path) -> None:
    """Draw what an adversary adds to the loss by the covariance's shape; the alignment by the radius."""
    figure = new_figure(8.2, 3.4, "Two Gaussian classes under an L2 adversary: theorems 1 and 3")
    trace = covariance.trace()
    shares = torch.linspace(0.02, 0.98, 193, dtype=torch.float64)
    axes = _half(figure, 0, "share of the variance along the first axis", "loss added (log scale)")
    for factor, color in ((1.1, VERMILION), (2.0, BLUE)):
        penalty = factor / float(0.02 * trace)
        added = [
            float(gaussian.vulnerability(torch.diag(torch.stack([s, 1 - s]) * trace), penalty))
            for s in shares
        ]
        axes.plot(shares, added, color=color, linewidth=1.8, label=f"adversary's penalty {penalty:.2g}")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.axvline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    axes.text(0.52, 0.45, "round Σ", fontsize=8, color=FAINT, transform=axes.get_xaxis_transform())
    axes.legend(fontsize=8, facecolor="white", framealpha=1, edgecolor="none", loc="upper center")
    axes.set_title("1: an adversary costs a round Σ least", fontsize=9.5, color=INK, loc="left")
    axes = _half(figure, 1, "L2 radius of the adversary in training", "least cosine")
    radii = np.linspace(0, radius, 101)
    learned = (gaussian.robust_covariance(covariance, gaussian.penalty_for(covariance, r)) for r in radii)
    cosines = [float(gaussian.least_alignment(each)) for each in learned]
    axes.plot(radii, cosines, color=BLUE, linewidth=1.8)
    axes.set(ylim=(0, 1), xlim=(0, radius))
    axes.set_title("3: the gradient turns towards the mean", fontsize=9.5, color=INK, loc="left")
    save(figure, path)


def _half(figure: Any, place: int, across: str, up: str) -> "Axes":
    axes: Axes = figure.add_axes((0.08 + 0.5 * place, 0.15, 0.4, 0.62))
    plain(axes)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(up, fontsize=9, color=INK)
    return axes


def _ellipse(center: Tensor, covariance: Tensor, points: int) -> Any:
    """Return [2, points] where the samples are two deviations from the center."""
    around = torch.linspace(0, 2 * torch.pi, points, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    circle = torch.stack([around.cos(), around.sin()])
    return (center[:, None] + 2 * vectors @ (values.sqrt()[:, None] * circle)).numpy()


def _arrow(axes: "Axes", tip: Tensor, color: str) -> None:
    axes.annotate(
        "", tuple(tip.tolist()), (0, 0), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.4}
    )
