"""The figure of speed: PGD on four networks, of one run on each machine, with the range of the turns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.page.numbers import duration
from bench.page.peers import OURS, Run, median, names
from bench.page.rows import Row
from bench.providers import COMPILED
from fastadv.evaluation.figures.style import BLUE, FAINT, INK, SKY, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = dict(zip(OURS, (BLUE, BLUE, SKY), strict=True))
TITLES = {COMPILED: "plain loop, compiled", **{key: f"fastadv, {name}" for key, name in OURS.items()}}
TITLES["fastadv fp32"] = "fastadv"
OTHERS = "#BBBBBB"
THICK, BELOW, ABOVE, WIDE = 0.19, 0.62, 0.33, 7.4  # inches


def draw(runs: Sequence[Run]) -> "Figure":
    """One panel a network: time as a share of torchattacks', shorter is better."""
    panels = [(label, run[label]) for run in runs for label in run]
    most = max(float(row["p80_ms"]) / median(known["torchattacks"])
               for _, known in panels for name, row in known.items() if name in names(known))  # fmt: skip
    count = len(names(panels[0][1]))
    tall = count * THICK + ABOVE
    height = len(panels) * tall + BELOW + 0.3
    figure = new_figure(
        WIDE, height, "PGD, the same steps: time relative to torchattacks (shorter is better)"
    )
    top = height - 0.55
    for label, known in panels:
        axes = figure.add_axes(
            (1.75 / WIDE, (top - count * THICK) / height, (WIDE - 3.0) / WIDE, count * THICK / height)
        )
        panel(axes, label, known)
        axes.set_xlim(0, most)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.axvline(1, color=FAINT, linewidth=0.8, linestyle=":", zorder=3)
        top -= tall
    row = panels[0][1]["torchattacks"]
    figure.text(
        1.75 / WIDE, (top + 0.1) / height,
        f"medians; lines from the 20th to the 80th percentile of the turns. {row['cpu']}, {row['threads']} "
        f"threads, {row['date'][:10]}",
        fontsize=7.5, color=INK, va="center",
    )  # fmt: skip
    return figure


def panel(axes: "Axes", label: str, known: dict[str, Row]) -> None:
    """The bars of one network, each with its seconds."""
    plain(axes)
    axes.set_title(label, loc="left", fontsize=9, color=INK, pad=3)
    shown = names(known)
    axes.set_ylim(len(shown), 0)
    titles = [TITLES.get(name, name) for name in shown]
    axes.set_yticks([i + 0.5 for i in range(len(shown))], titles, fontsize=8)
    base = median(known["torchattacks"])
    for place, name in enumerate(shown):
        row = known[name]
        low, high = (float(row[key]) / base for key in ("p20_ms", "p80_ms"))
        axes.barh(place + 0.5, median(row) / base, height=0.8, color=COLORS.get(name, OTHERS), zorder=2)
        axes.plot([low, high], [place + 0.5] * 2, color=INK, linewidth=1.2, zorder=4)
        axes.annotate(
            duration(median(row)), (max(high, median(row) / base), place + 0.5), xytext=(4, -0.5),
            textcoords="offset points", va="center", fontsize=7.5, color=INK,
        )  # fmt: skip
