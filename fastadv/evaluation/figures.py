"""Figures: adversarial examples, accuracy against radius, nets side by side. Written atomically, as png, pdf or svg.

They use matplotlib's objects alone: no pyplot, no global state, no display. Colours are Okabe and Ito's, told apart by the colour-blind.
"""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastadv._files import atomic_write
from fastadv.errors import InputError

if TYPE_CHECKING:  # matplotlib takes as long to import as the rest of the library, and few calls draw
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9", "#E69F00"
LINES = ((BLUE, "-"), (VERMILION, "-"), (GREEN, "-"), (PURPLE, "--"), (ORANGE, "--"), (SKY, "--"))
INK, FAINT, GRID = "#222222", "#777777", "#E6E6E6"


def examples(
    x: Tensor,
    x_adv: Tensor,
    labels: Tensor,
    predictions: Tensor,
    path: str | PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    title: str | None = None,
    box: tuple[float, float] = (0.0, 1.0),
) -> None:
    """One column for each sample: the clean image, the adversarial one, and their difference, amplified by the factor stated.

    x, x_adv [N, C, H, W] with C of 1 or 3 in `box`; labels, predictions (of x_adv) [N], printed as `classes[i]` where given. The
    difference of grey images is orange where the attack added light and blue where it took some; that of colour images is drawn
    around mid-grey, channel by channel.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape != x_adv.shape or len(x) == 0:
        raise InputError(
            f"x: expected x and x_adv [N, 1 or 3, H, W] of one shape, got {tuple(x.shape)} and {tuple(x_adv.shape)}; reshape them"
        )
    if len(labels) != len(x) or len(predictions) != len(x):
        raise InputError(
            f"labels: expected {len(x)} labels and predictions, one per image, got {len(labels)} and {len(predictions)}"
        )
    clean, adversarial = (
        ((t.detach().cpu().double() - box[0]) / (box[1] - box[0])).clamp(0, 1) for t in (x, x_adv)
    )
    difference = adversarial - clean
    largest = float(difference.abs().max())
    grey = x.shape[1] == 1
    gain = _round_down((1.0 if grey else 0.5) / largest) if largest > 0 else 1.0

    n, side = len(x), 0.92
    aspect = x.shape[2] / x.shape[3]
    caption, left, top = 0.24, 1.12, 0.36 if title else 0.06
    width, height = left + n * (side + 0.08), top + 3 * side * aspect + 2 * caption + 0.14
    figure = _figure(width, height)
    if title:
        figure.text(
            0.06 / width, 1 - 0.1 / height, title, fontsize=10.5, fontweight="bold", color=INK, va="top"
        )
    rows = (("clean", clean), ("adversarial", adversarial), (f"difference\n× {gain:g}", difference))
    for row, (name, images) in enumerate(rows):
        y0 = top + row * (side * aspect + caption)
        middle = 1 - (y0 + side * aspect / 2) / height
        figure.text(
            (left - 0.14) / width,
            middle,
            name,
            fontsize=9,
            color=INK,
            ha="right",
            va="center",
            linespacing=1.3,
        )
        for column in range(n):
            x0 = left + column * (side + 0.08)
            axes = figure.add_axes(
                (x0 / width, 1 - (y0 + side * aspect) / height, side / width, side * aspect / height)
            )
            _image(axes, images[column], grey, gain if images is difference else None)
            if row < 2:
                label = int((labels, predictions)[row][column])
                turned = row == 1 and label != int(labels[column])
                text = classes[label] if classes is not None else str(label)
                style: dict[str, Any] = (
                    {"color": VERMILION, "fontweight": "bold"} if turned else {"color": INK}
                )
                axes.text(
                    0.5, -0.05, text, transform=axes.transAxes, ha="center", va="top", fontsize=8.5, **style
                )
    _save(figure, path)


def curves(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: str | PathLike[str],
    *,
    radius: str = "radius",
    title: str | None = None,
    chance: float | None = None,
) -> None:
    """Accuracy (from 0 to 1) against radius, one line for each name, named at its end.

    lines: {name: (radii, accuracy)}, as `accuracy_against_radius` returns; at most six. `radius` names the axis ("L∞ radius");
    `chance` draws the accuracy of guessing.
    """
    if not 1 <= len(lines) <= len(LINES):
        raise InputError(f"lines: expected 1 to {len(LINES)} curves, got {len(lines)}; draw several figures")
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    figure = _figure(5.6, 3.4)
    longest = max(len(name) for name in lines)
    axes = figure.add_axes((0.1, 0.15, 0.87 - min(0.4, 0.0145 * longest), 0.68 if title else 0.76))
    _plain(axes)
    ends, right = [], 0.0
    for (name, (radii, accuracy)), (colour, dash) in zip(lines.items(), LINES, strict=False):
        across, up = np.asarray(radii, dtype=float), np.asarray(accuracy, dtype=float)
        if across.ndim != 1 or across.shape != up.shape or across.size == 0:
            raise InputError(
                f"lines[{name!r}]: expected radii and accuracy of one length, got shapes {across.shape} and {up.shape}"
            )
        axes.plot(
            across, up, dash, color=colour, linewidth=2, marker="o", markersize=3.5, clip_on=False, zorder=3
        )
        # lines that end together are named in the order in which they came down
        ends.append((float(up[-1]) + 1e-6 * float(up.mean()), name, colour))
        right = max(right, float(across[-1]))
    axes.set_xlim(0, right or 1.0)
    axes.set_ylim(0, 1)
    if chance is not None:
        axes.axhline(chance, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        axes.text(0.01 * (right or 1.0), chance + 0.012, "guessing", color=FAINT, fontsize=7.5, va="bottom")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel(radius, fontsize=9, color=INK)
    for height, (_, name, colour) in zip(_spread([end[0] for end in ends], 0.062), ends, strict=True):
        axes.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            fontsize=9, fontweight="bold", color=colour, va="center", annotation_clip=False,
        )  # fmt: skip
    axes.text(0, 1.03, "accuracy", transform=axes.transAxes, fontsize=9, color=FAINT, ha="left", va="bottom")
    if title:
        figure.text(0.02, 0.975, title, fontsize=10.5, fontweight="bold", color=INK, va="top")
    _save(figure, path)


def bars(
    nets: Mapping[str, Mapping[str, float]],
    path: str | PathLike[str],
    *,
    title: str | None = None,
    reference: Mapping[str, Mapping[str, float]] | None = None,
    reference_name: str = "paper",
) -> None:
    """Nets side by side: for each a bar for each measure, {"standard": {"clean": 0.98, "robust": 0.03}, ...}, from 0 to 1.

    The measures are the same for every net, at most four. `reference` holds figures of the same form to set beside them, drawn as
    ticks and named `reference_name`; nets and measures may be missing there.
    """
    measures = list(next(iter(nets.values()), {}))
    if not measures or len(measures) > 4 or any(list(values) != measures for values in nets.values()):
        raise InputError(
            f"nets: expected the same 1 to 4 measures for every net, got {[list(v) for v in nets.values()]}"
        )
    colours = (SKY, VERMILION, GREEN, PURPLE)[: len(measures)]
    thick, gap = 0.17, 0.16
    group = len(measures) * thick + gap
    left, bottom, top = 0.25 + 0.082 * max(len(name) for name in nets), 0.08, 0.74 if title else 0.42
    width, height = left + 4.1, bottom + len(nets) * group + top
    figure = _figure(width, height)
    axes = figure.add_axes((left / width, bottom / height, 3.5 / width, len(nets) * group / height))
    _plain(axes)
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
        for line, (measure, colour) in enumerate(zip(measures, colours, strict=True)):
            centre, value = start + (line + 0.5) * thick, float(values[measure])
            axes.barh(centre, value, height=thick * 0.88, color=colour, zorder=2)
            known = (reference or {}).get(name, {}).get(measure)
            after = value
            if known is not None:
                axes.plot(
                    [known, known],
                    [centre - thick * 0.48, centre + thick * 0.48],
                    color=INK,
                    linewidth=1.8,
                    zorder=4,
                )
                after = known if 0 <= known - value < 0.12 else value
            axes.text(
                after + 0.015, centre + 0.005, f"{100 * value:.0f}%", va="center", fontsize=8, color=INK
            )
    across = left / width
    named = [(measure, colour) for measure, colour in zip(measures, colours, strict=True)]
    for measure, colour in named:
        across = _key(figure, across, 1 - (top - 0.2) / height, "■", measure, colour)
    if reference:
        _key(figure, across, 1 - (top - 0.2) / height, "|", reference_name, INK)
    if title:
        figure.text(
            0.1 / width, 1 - 0.1 / height, title, fontsize=10.5, fontweight="bold", color=INK, va="top"
        )
    _save(figure, path)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, facecolor="white")


def _plain(axes: "Axes") -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8.5, colors=INK, pad=5)
    axes.set_axisbelow(True)


def _image(axes: "Axes", image: Tensor, grey: bool, gain: float | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    pixels: NDArray[Any] = image.permute(1, 2, 0).numpy()
    if grey:
        limits = (0.0, 1.0) if gain is None else (-1 / gain, 1 / gain)
        less_more = LinearSegmentedColormap.from_list("less_more", [BLUE, "#FAFAFA", VERMILION])
        axes.imshow(
            pixels[..., 0],
            cmap="gray" if gain is None else less_more,
            vmin=limits[0],
            vmax=limits[1],
            interpolation="nearest",
        )
    else:
        axes.imshow(pixels if gain is None else np.clip(0.5 + gain * pixels, 0, 1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#CCCCCC")
        spine.set_linewidth(0.6)


def _key(figure: "Figure", across: float, height: float, mark: str, name: str, colour: str) -> float:
    """One entry of a key at `across`; where the next one starts."""
    width = float(figure.get_figwidth())
    figure.text(across, height, mark, fontsize=9, color=colour, va="center", fontweight="bold")
    figure.text(across + 0.14 / width, height, name, fontsize=9, color=INK, va="center")
    return across + (0.42 + 0.075 * len(name)) / width


def _round_down(value: float) -> float:
    """The largest of 1, 1.5, 2, 3, 5, 8 times a power of ten that is not above value; at least 1."""
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return max(1.0, max(step * power for step in (1, 1.5, 2, 3, 5, 8) if step * power <= value * (1 + 1e-6)))


def _spread(heights: Sequence[float], apart: float) -> list[float]:
    """Heights in [0, 1] moved as little as needed for labels to stand `apart` from each other, in their order."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    for _ in range(200):
        overlap = apart - np.diff(placed)
        for i in np.flatnonzero(overlap > 1e-9):
            placed[i] -= overlap[i] / 2
            placed[i + 1] += overlap[i] / 2
        placed[0] = max(placed[0], 0.0)
    result = np.empty_like(placed)
    result[order] = placed
    return [float(height) for height in result]


def _save(figure: "Figure", path: str | PathLike[str]) -> None:
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"path: expected a name ending in .png, .pdf or .svg, got {str(path)!r}")
    with atomic_write(path) as part:
        figure.savefig(part, format=kind, bbox_inches="tight", pad_inches=0.1)
