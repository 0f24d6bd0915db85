"""The figures of the study: logistic regression, logits along FGSM, first-layer weights, and the panda."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, ScalarFormatter
from torch import Tensor, nn
from torch.nn.functional import pad

from papers import drawing as style
from papers.drawing import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION, draw_image

PLAIN, FGSM, CLOSED = "plain", "FGSM training", "closed form"
WIDTHS = {FGSM: 4.5, PLAIN: 4.5}  # below a narrow line: where the two are equal, both are seen
DECAYS = (GREEN, ORANGE, PURPLE, INK)
BESIDE = 3.0  # margins are drawn up to so many times the adversary's worst case
RADIUS, POINTS = 15.0, 300  # the radii of the paper go from -15 to 15; points on each side of 0
SHOWN = (-15.0, -0.5, -0.25, 0.0, 0.25, 0.5, 15.0)  # beyond 1 all pixels are black or white
OTHER = "#B0B0B0"
ACROSS = 5  # units that are drawn, in a row and in a column
ALIKE = 0.2  # correlation of neighboring weights, which is about 0 in a unit that has not learned
PARTS = ("clean", "sign", "adversarial")


def logistic(figures: dict[str, Any], path: Path) -> None:
    """Draw what `logistic` returned: clean error, error under FGSM and |w|₁ by epoch; pulls at the end."""

    nets = {name: net["rows"] for name, net in figures["nets"].items()}
    colors = {PLAIN: FAINT, FGSM: SKY, CLOSED: BLUE}
    colors |= dict(zip([name for name in nets if name not in colors], DECAYS, strict=False))
    named = " against ".join(figures["classes"])
    width, height, wide, gap = 10.9, 3.45, 2.1, 0.6
    figure = style.new_figure(
        width, height, f"Logistic regression, {named}: in closed form, by examples, and with L1 decay"
    )
    pull = "pull of one image on |w|₁"
    titles = "clean error", f"error under FGSM {figures['radius']:g}", "|w|₁ (log scale)", pull
    below = ("epoch", "epoch", "epoch", "margin of the image")
    places = ((0.5 + place * (wide + gap), 0.45, wide, 1.95) for place in range(4))
    axes = [_panel(figure, *told) for told in zip(places, titles, below, strict=True)]
    for key, panel in zip(("clean", "fgsm", "norm"), axes, strict=False):
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
    style.save(figure, path)


def _pulls(axes: Axes, figures: dict[str, Any], colors: dict[str, str]) -> None:
    radius, last = figures["radius"], figures["nets"][CLOSED]["rows"][-1]
    worst, mean = radius * last["norm"], last["margin"]
    margins = np.linspace(0, BESIDE * worst, 201)
    for name in (FGSM, CLOSED):
        pull = radius / (1 + np.exp(margins - worst))
        axes.plot(margins, pull, color=colors[name], linewidth=WIDTHS.get(name, 1.6), zorder=3)
    for name, net in figures["nets"].items():
        if name not in ("plain", FGSM, CLOSED):
            axes.axhline(net["rows"][-1]["pull"], color=colors[name], linewidth=1.6, zorder=3)
    style.mark(axes, mean)
    axes.text(mean, 0.85, " mean margin", color=FAINT, fontsize=7.5, transform=axes.get_xaxis_transform())
    axes.set_xlim(0, margins[-1])
    axes.set_ylim(bottom=-0.006)


def _panel(figure: Figure, at: style.Rect, name: str, across: str, color: str = INK) -> Axes:
    """Add a panel whose name stands above it."""
    axes = style.panel(figure, at, across, grid="y")
    axes.text(0, 1.03, name, transform=axes.transAxes, fontsize=9, color=color, va="bottom")
    return axes


def shown(radii: Tensor) -> Tensor:
    """Return the places of the radii in SHOWN."""
    return (radii[:, None] - torch.tensor(SHOWN, dtype=radii.dtype)).abs().argmin(0)


def trace(radii: Tensor, logits: Tensor, images: Tensor, label: int, path: Path) -> None:
    """Draw what `trace` returned: the logits, and images under them."""
    radius, ends = float(radii[-1]), int(logits[-1].argmax())
    right = (logits[shown(radii)].argmax(1) == label).tolist()
    side = 0.62
    width, height, left, bottom, wide, tall = 7.4, 4.75, 0.65, 1.6, 6.0, 2.65
    figure = style.new_figure(width, height, "Logits along the direction of FGSM, and some of the images")
    at = left, bottom, wide, tall
    axes = _panel(figure, at, "logit", "radius ε of x + ε sign(∇ₓ J)", FAINT)
    axes.set_xlim(-radius, radius)
    colors = dict.fromkeys(range(logits.shape[1]), OTHER) | {ends: VERMILION, label: BLUE}
    for k in sorted(colors, key=lambda k: colors[k] != OTHER):
        axes.plot(radii, logits[:, k], color=colors[k], linewidth=1 if colors[k] == OTHER else 2.2, zorder=3)
    style.mark(axes, 0)
    below = axes.get_xaxis_transform()
    axes.text(0.02 * radius, 1.0, "clean", color=FAINT, fontsize=7.5, va="top", transform=below)
    _name_lines(axes, logits[-1], colors, label)
    for place, (image, framed) in enumerate(zip(images.clamp(0, 1).cpu(), right, strict=True)):
        center = left + place / (len(images) - 1) * wide
        up, across = (side * size / max(image.shape[1:]) for size in image.shape[1:])
        shown_at = figure.add_axes(((center - across / 2) / width, 0.3 / height, across / width, up / height))
        draw_image(shown_at, image)
        shown_at.set_xlabel(f"ε = {SHOWN[place]:g}", fontsize=8, color=BLUE if framed else FAINT, labelpad=3)
        if framed:
            for spine in shown_at.spines.values():
                spine.set(color=BLUE, linewidth=2)
    style.save(figure, path)


def _name_lines(axes: Axes, last: Tensor, colors: dict[int, str], y: int) -> None:
    low, high = axes.get_ylim()
    ends, inches = ((last - low) / (high - low)).tolist(), axes.bbox.width / axes.figure.dpi
    for k, (end, place) in enumerate(zip(ends, style.spread(ends, 0.052), strict=True)):
        name, other = f"{k}, the label" if k == y else str(k), colors[k] == OTHER
        color, thick = (FAINT, "normal") if other else (colors[k], "bold")
        axes.annotate(
            name, (1, end), (1 + 0.17 / inches, place), xycoords="axes fraction",
            textcoords="axes fraction", color=color, va="center", annotation_clip=False, fontsize=8,
            arrowprops=style.leader(color) if abs(end - place) > 0.01 else None, fontweight=thick,
        )  # fmt: skip


def first_layer(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return the weights into each unit or piece of a dense first layer as images [units, C, H, W]."""
    weight = next(w.detach() for w in model.parameters() if w.ndim > 1)
    return weight.view(-1, *shape)


def spread(weight: Tensor) -> Tensor:
    """Return the effective number of pixels of each unit, (sum of w²)² / (sum of w⁴); 0 without weights."""
    mass = weight.double().square().sum(1).flatten(1)
    return mass.sum(1).square() / mass.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)


def learned(weight: Tensor) -> Tensor:
    """Return the units that are more than noise, [n], those of the largest weights first."""
    norms = weight.flatten(1).norm(dim=1)
    alike = (weight[..., 1:] * weight[..., :-1]).flatten(1).sum(1) > ALIKE * norms.square()
    order: Tensor = (norms * alike).argsort(descending=True)
    return order[: int(alike.sum())]


def weights(nets: Mapping[str, nn.Module], shape: Sequence[int], path: Path) -> None:
    """Draw first layers over gray images side by side: units that have learned, the largest weights first."""
    blocks = {name: first_layer(model, shape).cpu() for name, model in nets.items()}
    side, gap, top = 2.6, 0.25, 0.75
    width, height = len(blocks) * (side + gap) + 0.1, side + top
    figure = style.new_figure(width, height, "Weights of the first layer")
    for place, (name, weight) in enumerate(blocks.items()):
        chosen = learned(weight)
        some = torch.linspace(0, len(chosen) - 1, min(ACROSS**2, len(chosen))).long()
        left = (0.08 + place * (side + gap)) / width
        axes = figure.add_axes((left, 0.02, side / width, side / height))
        draw_image(axes, mosaic(weight[chosen[some]]), 1.0)
        axes.axis("off")
        said = f"{len(some)} of {len(chosen):,} units that learned, of {len(weight):,}"
        figure.text(left, 1 - 0.35 / height, name, fontsize=9, fontweight="bold", color=INK, va="top")
        figure.text(left, 1 - 0.53 / height, said, fontsize=8, color=FAINT, va="top")
    style.save(figure, path)


def mosaic(weight: Tensor) -> Tensor:
    """Return one image [1, ...] of units [n, 1, H, W], scaled to their largest weights, a pixel apart."""
    largest = weight.abs().flatten(1).amax(1).clamp(min=torch.finfo(weight.dtype).tiny)
    scaled = pad(weight / largest.view(-1, 1, 1, 1), (0, 1, 0, 1))
    units, _, tall, wide = scaled.shape
    whole = scaled.new_zeros(ACROSS**2, tall, wide)
    whole[:units] = scaled[:, 0]
    rows = whole.view(ACROSS, ACROSS, tall, wide).transpose(1, 2)
    return rows.reshape(1, ACROSS * tall, ACROSS * wide)[:, :-1, :-1]


def panda(figures: dict[str, Any], images: Tensor, path: Path) -> None:
    """Draw what `panda` returned: three panels with + and = between them."""
    side, between, below, top = 1.9, 0.75, 0.75, 0.1
    tall, wide = (side * size / max(images.shape[2:]) for size in images.shape[2:])
    width, height = 3 * wide + 2 * between + 0.2, tall + below + top
    figure = style.new_figure(width, height)
    signs = (f"+ {figures['radius']:.3g} ×", "=")
    titles = ("x", "sign(∇ₓ J(θ, x, y))", "x + ε sign(∇ₓ J(θ, x, y))")
    for place, (image, part, title) in enumerate(zip(images.cpu(), PARTS, titles, strict=True)):
        left = 0.1 + place * (wide + between)
        axes = figure.add_axes((left / width, below / height, wide / width, tall / height))
        draw_image(axes, image)
        said = figures[part]
        wrong = part == "adversarial" and figures["fooled"]
        lines = (
            (title, FAINT, "normal"),
            (said["name"], VERMILION if wrong else INK, "bold"),
            (f"{said['confidence']:.1%} confidence", INK, "normal"),
        )
        for line, (text, color, weight) in enumerate(lines):
            figure.text(
                (left + wide / 2) / width, (below - 0.08 - 0.2 * line) / height, text, fontsize=9,
                color=color, fontweight=weight, ha="center", va="top",
            )  # fmt: skip
        if place < 2:
            across, up = (left + wide + between / 2) / width, (below + tall / 2) / height
            figure.text(across, up, signs[place], fontsize=12, color=INK, ha="center", va="center")
    style.save(figure, path)
