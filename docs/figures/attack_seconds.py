"""Draw attack_seconds.png: how far each attack lowers the accuracy of a robust network, in how much time.

The rows come from

    python -m bench.suite --model l2 --turns 5 --precision fp32 --out bench/results/attack_seconds.jsonl
        --only fgsm-l2 bim-l2 mim-l2 pgd-l2 apgd-ce-l2 apgd-dlr-targeted-l2 square-l2 autoattack-l2

python docs/figures/attack_seconds.py
"""

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from fastadv.card import telling
from fastadv.evaluation.figures.style import BLUE, FAINT, GRID, INK, VERMILION, key, new_figure, plain, save

ROWS = Path(__file__).parents[2] / "bench" / "results" / "attack_seconds.jsonl"
# case: the name in the picture, beside whose point it stands (0: ours, 1: the other), and how far in points
NAMES = {
    "fgsm-l2-2": ("FGSM", 0, (10, 0)),
    "mim-l2-2": ("MIM, 10 steps", 1, (12, 0)),
    "bim-l2-2": ("BIM, 10 steps", 0, (12, -1)),
    "pgd-l2-2": ("PGD, 40 steps", 0, (-16, 0)),
    "apgd-ce-l2-2": ("APGD-CE", 1, (12, 0)),
    "apgd-dlr-targeted-l2-2": ("APGD-T", 0, (-12, -4)),
    "square-l2-2": ("Square, 1,000 queries", 1, (10, 0)),
    "autoattack-l2-2": ("AutoAttack", 0, (-14, -2)),
}
Row = dict[str, Any]


def pairs() -> dict[str, tuple[Row, Row]]:
    """Return by case our newest row, and that of the strongest other package; the faster of two alike."""
    newest: dict[tuple[str, str], Row] = {}
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        newest[row["case"], row["provider"]] = row
    found = {}
    for case in NAMES:
        rows = [row for (own, _), row in newest.items() if own == case]
        ours = next(row for row in rows if row["provider"] == "fastadv fp32")
        peers = [row for row in rows if row is not ours]
        found[case] = ours, min(peers, key=lambda row: (row["robust_accuracy"], seconds(row)))
    return found


def seconds(row: Row) -> float:
    """Return the median over the turns."""
    return statistics.median(row["processor_seconds"])


def mark(axes: Axes, row: Row, color: str, hollow: bool) -> None:
    """Draw a row, with a line from the fastest turn to the slowest."""
    up, turns = row["robust_accuracy"], row["processor_seconds"]
    axes.plot([min(turns), max(turns)], [up, up], color=color, linewidth=1.2)
    inside = "white" if hollow else color
    axes.plot(seconds(row), up, "o", color=color, markersize=6.5, markerfacecolor=inside)


def main() -> None:
    found = pairs()
    figure = new_figure(7.2, 4.0, "A robust network under each attack: accuracy by time")
    key(figure, 0.65, 0.5, [("fastadv", "o", BLUE), ("the strongest other package", "$○$", VERMILION)])
    axes = figure.add_axes((0.09, 0.13, 0.87, 0.64))
    plain(axes)
    axes.set(xscale="log", ylim=(0.46, 0.87))
    axes.tick_params(which="minor", length=0)
    axes.text(0, 1.02, "robust accuracy at L2 2, of a network trained for it", transform=axes.transAxes,
              fontsize=8.5, color=FAINT, va="bottom")  # fmt: skip
    for case, (ours, peer) in found.items():
        ends = [seconds(ours), seconds(peer)], [ours["robust_accuracy"], peer["robust_accuracy"]]
        axes.plot(*ends, color=INK, linewidth=0.6, zorder=1)
        mark(axes, peer, VERMILION, hollow=True)
        mark(axes, ours, BLUE, hollow=False)
        name, whose, apart = NAMES[case]
        axes.annotate(
            name, (ends[0][whose], ends[1][whose]), apart, textcoords="offset points", fontsize=8.5,
            color=INK, va="center_baseline", ha="left" if apart[0] > 0 else "right",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.grid(color=GRID, linewidth=0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.set_xlabel("processor time for 100 images, one thread; bars: five turns", fontsize=9, color=INK)
    row = found["pgd-l2-2"][0]
    told = {"machine": row["cpu"], "date": row["date"][:10]}
    with telling(command="python docs/figures/attack_seconds.py (rows of python -m bench.suite)", seed=0):
        save(figure, Path(__file__).with_suffix(".png"), told)


if __name__ == "__main__":
    main()
