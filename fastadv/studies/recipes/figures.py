"""The curves of the study: accuracy by epoch, a panel for each recipe."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastadv as fa
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION
from fastadv.studies.recipes.plan import PGD, QUICK
from fastadv.studies.recipes.report import by_recipe, over_seeds
from fastadv.text import radius_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = "curves.png"
COLORS = {"clean": BLUE, "own": GREEN, PGD: ORANGE, QUICK: VERMILION}
NAMES = {"own": "own examples"}
COLUMNS, WIDTH, HEIGHT = 3, 3.2, 2.0  # panels in a row, and inches of one
LEFT, TOP, BELOW, GAP = 0.5, 0.75, 0.75, 0.3  # inches around them

Point = Mapping[str, Any]


def draw(result: Mapping[str, Any], path: Path, *, command: str | None = None) -> None:
    """Draw what `run` returned: means over the seeds, their range as a band, a mark at each alarm."""
    config, parts = result["config"], by_recipe(result)
    columns = min(COLUMNS, len(parts))
    rows = math.ceil(len(parts) / columns)
    width = LEFT + columns * (WIDTH + GAP)
    height = TOP + rows * (HEIGHT + BELOW)
    seeds = [config["seed"] + i for i in range(config["seeds"])]
    title = f"Accuracy by epoch, {config['data']}, L∞ {radius_text(fa.Linf(config['radius']))}"
    figure = style.new_figure(width, height, title)
    drawn = dict[str, str]()
    for place, (name, lines) in enumerate(parts.items()):
        row, column = divmod(place, columns)
        down = height - TOP - row * (HEIGHT + BELOW) - HEIGHT
        across = LEFT + column * (WIDTH + GAP)
        axes = figure.add_axes((across / width, down / height, WIDTH / width, HEIGHT / height))
        drawn |= _panel(axes, name, lines)
        if column:
            axes.set_yticklabels([])
    entries = [(NAMES.get(name, name), "s", COLORS[name]) for name in COLORS if name in drawn]
    averaged = any(point["averaged"] for lines in parts.values() for line in lines for point in line["curve"])
    legend = ["band: from the lowest to the highest seed"] if len(seeds) > 1 else []
    legend += ["dashed: averaged weights"] if averaged else []
    style.key(figure, LEFT, 0.38, entries + ([("; ".join(legend), "", FAINT)] if legend else []))
    told = {"seed": ", ".join(map(str, seeds)), "date": result["date"]}
    told["machine"] = ", ".join(f"{key} {value}" for key, value in result["machine"].items() if value)
    style.save(figure, path, told | ({"command": command} if command else {}))


def _panel(axes: "Axes", name: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Draw the lines of one recipe; return the colors of those that there are."""
    curves = [line["curve"] for line in lines]
    style.accuracy_axis(axes, max(point["epoch"] for curve in curves for point in curve), "epoch")
    axes.set_title(name, fontsize=9.5, fontweight="bold", color=INK, loc="left", pad=5)
    told = f"AutoAttack {over_seeds([line['autoattack'] for line in lines])}"
    axes.set_title(told, fontsize=8, color=FAINT, loc="right", pad=5)
    drawn = dict[str, str]()
    for key, color in COLORS.items():
        epochs, values = _over_epochs(curves, key)
        if len(epochs):
            drawn[key] = color
            axes.plot(
                epochs, values.mean(0), color=color, linewidth=1.8, marker="o", markersize=2.5, zorder=3,
                clip_on=False,
            )  # fmt: skip
            axes.fill_between(
                epochs, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0, zorder=2
            )
        averaged = [[{"epoch": p["epoch"], **(p["averaged"] or {})} for p in curve] for curve in curves]
        epochs, values = _over_epochs(averaged, key)
        axes.plot(epochs, values.mean(0), color=color, linewidth=1.1, linestyle=(0, (3, 1.5)), zorder=3)
    _alarms(axes, lines)
    return drawn


def _over_epochs(curves: Sequence[Sequence[Point]], key: str) -> tuple[Any, Any]:
    """Return the epochs [N] that all seeds have measured, and the accuracies [seeds, N] in them."""
    known = [{p["epoch"]: p[key] for p in curve if p.get(key) is not None} for curve in curves]
    epochs = sorted(set.intersection(*map(set, known)))
    return np.array(epochs), np.array([[each[epoch] for epoch in epochs] for each in known])


def _alarms(axes: "Axes", lines: Sequence[Mapping[str, Any]]) -> None:
    """Mark the epoch of each seed's alarm, and name its kind at the first."""
    from matplotlib.patheffects import withStroke

    named, right = set[str](), axes.get_xlim()[1]
    for epoch, text in sorted((one["epoch"], one["text"]) for line in lines for one in line["alarms"]):
        kind = text.partition(":")[0]
        axes.axvline(epoch, color=PURPLE, linewidth=1.1, linestyle=(0, (2, 2)), zorder=4)
        if kind not in named:
            axes.annotate(
                f"epoch {epoch}:\n{kind}", (epoch, 0.9 - 0.17 * len(named)), color=PURPLE, fontsize=7.5,
                xytext=(4 if epoch < right / 2 else -4, 0), textcoords="offset points", va="center",
                ha="left" if epoch < right / 2 else "right", zorder=5,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
            named.add(kind)
