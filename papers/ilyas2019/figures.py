"""The figures of the study: nets beside the paper's, sets beside their sources, transfer, and section 4."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from torch import Tensor

import fastadv as fa
from fastadv.data import ConstructedSet, ImageSet
from papers import drawing as style
from papers.drawing import BLUE, FAINT, INK, SKY, VERMILION
from papers.ilyas2019 import gaussian
from papers.ilyas2019.gaussian import Learned
from papers.ilyas2019.plan import KINDS, PAPER_ATTACK, TRANSFER, paper
from papers.study import one_of_each, unit

THICK, GAP = 0.17, 0.16  # inches of a bar, and between two nets
WIDE = 0.12  # of the axis, what a number takes
GUESSING = 0.1
TOP = 105  # percent, where the axis of transfer ends
SUBTITLE = "below each image the label that networks are trained on; an orange label is not the true one"


def bars(nets: Mapping[str, tuple[float, float]], attack: str, data: str, path: Path) -> None:
    """Draw the accuracy of each network, clean and under `attack` on `data`, with the paper's as ticks."""

    names = [f"{name}\n{KINDS[name].remark}" if name in KINDS else name for name in nets]
    group = 2 * THICK + GAP
    longest = max(len(line) for name in names for line in name.split("\n"))
    left, bottom, top = 0.25 + 0.075 * longest, 0.3, 1.06
    width, height = left + 4.1, bottom + len(nets) * group + top
    figure = style.new_figure(width, height, "What networks learn from each training set")
    axes = style.panel(figure, (left, bottom, 3.5, len(nets) * group), grid="x")
    axes.set(xlim=(0, 1), ylim=(len(nets) * group, 0))
    axes.set_yticks([(place + 0.5) * group for place in range(len(nets))], names, fontsize=9)
    style.shares(axes.xaxis)
    subtitle = (
        f"Bars: accuracy on {data}, clean and under {attack}.\n"
        f"Diamonds: Ilyas et al. 2019, ResNet-50 on CIFAR-10, clean and under {PAPER_ATTACK}."
    )
    down = 1 - 0.32 / height
    figure.text(0.08 / width, down, subtitle, fontsize=8, color=FAINT, va="top", linespacing=1.35)
    axes.axvline(GUESSING, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=3)
    for place, (name, values) in enumerate(nets.items()):
        own = paper(name)
        known = own.get("clean"), own.get(PAPER_ATTACK)
        for line, (value, theirs, color) in enumerate(zip(values, known, (SKY, VERMILION), strict=True)):
            center = place * group + GAP / 2 + (line + 0.5) * THICK
            axes.barh(center, value, height=THICK * 0.88, color=color, zorder=2)
            after = value + 0.015
            if theirs is not None:
                axes.plot(theirs, center, "d", color=INK, markersize=5, mfc="white", zorder=4, clip_on=False)
                if 0 <= theirs - value < WIDE:  # between both a number would be read as the mark's
                    after = theirs + 0.022
            after = GUESSING + 0.01 if after < GUESSING < after + WIDE / 2 else after
            axes.text(
                after, center + 0.005, f"{100 * value:.0f}%", va="center", fontsize=8, color=INK, zorder=5,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
    entries = [("clean", "s", SKY), (attack, "s", VERMILION)]
    entries += [("paper", "$◇$", INK)] if any(map(paper, nets)) else []
    style.key(figure, left, top - 0.2, [*entries, ("guessing", ":", INK)])
    style.save(figure, path)


def gallery(name: str, base: ImageSet, made: ConstructedSet, path: Path) -> None:
    """Draw two images of each class beside what the set `name` made of them; where pushed, also how."""
    kind, rows = KINDS[name], list[fa.figures.Strip]()
    unused = torch.ones(len(base), dtype=torch.bool)
    for _ in range(2):
        if len(places := one_of_each(base.y, unused)):
            unused[places] = False
            rows.append(_strip("source", base, places, "true label", apart=0.12))
            rows.append(_strip(name, made, places, "its label", base))
            if not kind.inverts:
                pushed = unit(made.x[places]) - unit(base.x[places])
                rows.append(fa.figures.Strip("difference", pushed, difference=True))
    title = f"{name}: {kind.remark}, made with the {kind.source} net"
    told = SUBTITLE.partition(";")[0] if kind.inverts else SUBTITLE
    fa.figures.strips(rows, path=path, title=title, subtitle=told)


def _strip(
    name: str, images: ImageSet, places: Tensor, remark: str, base: ImageSet | None = None, apart: float = 0.0
) -> fa.figures.Strip:
    labels = images.y[places]
    names = [images.classes[label] for label in labels.tolist()]
    marked = None if base is None else labels != base.y[places]
    return fa.figures.Strip(name, unit(images.x[places]), names, marked, remark=remark, apart=apart)


SHOWN = 150


def ellipses(mean: Tensor, covariance: Tensor, learned: Sequence[Learned], path: Path) -> None:
    """Draw a panel for each radius: both classes as learned, boundary, mean and input gradient."""
    each, title = 2.75, "The more an adversary may move, the rounder the classes learned"
    width = 0.4 + each * len(learned)
    figure = style.new_figure(width, 3.35, title)
    most = 2.1 * max(float(torch.linalg.eigvalsh(one.theorem)[-1].sqrt()) for one in learned)
    reach = most + float(mean.norm())
    cloud = gaussian.whitened(covariance, 2 * SHOWN)
    for place, one in enumerate(learned):
        axes = style.panel(figure, (0.35 + place * each, 0.402, each - 0.2, 2.211))
        axes.set(xlim=(-reach, reach), ylim=(-0.9 * reach, 0.9 * reach), aspect="equal")
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
        fontsize=8.5, color=INK,
    )  # fmt: skip
    style.save(figure, path)


def theorems(covariance: Tensor, radius: float, path: Path) -> None:
    """Draw what an adversary adds to the loss by the covariance's shape; the alignment by the radius."""
    figure = style.new_figure(8.2, 3.4, "Two Gaussian classes under an L2 adversary: theorems 1 and 3")
    trace = covariance.trace()
    shares = torch.linspace(0.02, 0.98, 193, dtype=torch.float64)
    half = 0.656, 0.51, 3.28, 2.108
    named = "share of the variance along the first axis", "loss that the adversary adds"
    axes = style.panel(figure, half, *named)
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
    half = 4.756, *half[1:]
    axes = style.panel(figure, half, "L2 radius of the adversary in training", "least cosine")
    radii = np.linspace(0, radius, 101)
    learned = (gaussian.robust_covariance(covariance, gaussian.penalty_for(covariance, r)) for r in radii)
    cosines = [float(gaussian.least_alignment(each)) for each in learned]
    axes.plot(radii, cosines, color=BLUE, linewidth=1.8)
    axes.set(ylim=(0, 1), xlim=(0, radius))
    axes.set_title("3: the gradient turns towards the mean", fontsize=9.5, color=INK, loc="left")
    style.save(figure, path)


def _ellipse(center: Tensor, covariance: Tensor, points: int) -> Any:
    """Return [2, points] where the samples are two deviations from the center."""
    around = torch.linspace(0, 2 * torch.pi, points, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    circle = torch.stack([around.cos(), around.sin()])
    return (center[:, None] + 2 * vectors @ (values.sqrt()[:, None] * circle)).numpy()


def _arrow(axes: Axes, tip: Tensor, color: str) -> None:
    axes.annotate(
        "", tuple(tip.tolist()), (0, 0), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.4}
    )


def transfer(found: Mapping[str, Any], path: Path, source: str) -> None:
    """Draw accuracy against transfer success, a point for each architecture, with the paper's in gray."""
    figure = style.new_figure(5.8, 4.0, "Learned from D_det, and fooled by transfer")
    named = "accuracy of a net taught by D_det, %", "transfer success of adversarial examples, %"
    axes = style.panel(figure, (0.696, 0.52, 3.596, 2.8), *named)
    points = {one["architecture"]: one for one in found["points"] if one["transfer"] is not None}
    ours = {name: (one["accuracy"], one["transfer"]) for name, one in points.items()}
    most = max(across for across, _ in (*TRANSFER.values(), *ours.values()))
    axes.set(xlim=(0, 105 * most), ylim=(0, TOP))
    drawn: list[tuple[str, tuple[float, float], str]] = []
    for group, color, filled in ((TRANSFER, FAINT, "none"), (ours, BLUE, BLUE)):
        for name, (across, up) in group.items():
            at = 100 * across, 100 * up
            axes.plot(*at, "o", color=color, markerfacecolor=filled, markersize=6, zorder=3)
            if group is ours and (count := points[name].get("attacked")):
                whole = [100 * end for end in fa.evaluation.clopper_pearson(round(up * count), count)]
                axes.plot([at[0]] * 2, whole, color=color, linewidth=1.2, zorder=2)
            drawn.append((name, at, color))
    heights = style.spread([up / TOP for _, (_, up), _ in drawn], 0.055)
    heights = [height - max(*heights, 0.97) + 0.97 for height in heights]
    ends = [(across / (105 * most), up / TOP) for _, (across, up), _ in drawn]
    for _ in drawn:  # leaders cross as long as two names, exchanged, shorten them
        for i, j in combinations(range(len(drawn)), 2):
            ways = [[math.dist(ends[k], (1.03, heights[place])) for place in (i, j)] for k in (i, j)]
            if ways[0][1] + ways[1][0] < ways[0][0] + ways[1][1]:
                heights[i], heights[j] = heights[j], heights[i]
    for (name, at, color), height in zip(drawn, heights, strict=True):
        axes.annotate(
            name, at, (1.03, height), textcoords="axes fraction", fontsize=8, color=color,
            arrowprops=style.leader(color, gap=4), va="center",
        )  # fmt: skip
    style.mark(axes, 10)
    axes.text(10.3, 1, "guessing", fontsize=7.5, color=FAINT)
    told = f"filled: here, of a {source}, with 95% intervals\nempty: the paper, of a ResNet-50 on CIFAR-10"
    axes.set_title(told, fontsize=8, color=FAINT, loc="left")
    style.save(figure, path)
