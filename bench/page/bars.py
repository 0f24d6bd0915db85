"""The figure of speed: PGD of every provider on every net, and what none of them could save."""

from typing import TYPE_CHECKING

from bench.page.entries import PGD
from bench.page.numbers import duration, number
from bench.page.rows import Row, Rows, milliseconds
from fastadv.evaluation.figures.style import BLUE, FAINT, INK, SKY, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS = {"fastadv fp32": BLUE, "fastadv bf16": SKY}
CEILINGS = {f"fastadv {precision}": f"passes alone, {precision}" for precision in ("fp32", "bf16")}
OTHERS = "#BBBBBB"
THICK, BELOW, ABOVE, WIDE = 0.19, 0.62, 0.33, 7.4  # inches


def measured(rows: Rows) -> dict[str, dict[str, Row]]:
    """The rows of each problem by provider, ours first, then the fastest."""
    problems = {}
    for label, name in PGD.items():
        known = dict(rows.providers(name))
        others = [p for p in known if not p.startswith(("fastadv", "passes alone"))]
        order = [*OURS, *sorted(others, key=lambda p: milliseconds(known[p]) or 0.0)]
        problems[label] = {p: known[p] for p in (*order, *CEILINGS.values())}
    return problems


def draw(rows: Rows) -> "Figure":
    """One panel a problem: how many times as fast as torchattacks, longer is better."""
    problems = measured(rows)
    most = max(row["times_torchattacks"] for known in problems.values() for row in known.values())
    counts = [len(known) - len(CEILINGS) for known in problems.values()]
    height = sum(count * THICK + ABOVE for count in counts) + BELOW + 0.35
    figure = new_figure(WIDE, height, "PGD, the same steps: times as fast as torchattacks (longer is better)")
    top = height - 0.55
    for (label, known), count in zip(problems.items(), counts, strict=True):
        axes = figure.add_axes(
            (1.55 / WIDE, (top - count * THICK) / height, (WIDE - 2.35) / WIDE, count * THICK / height)
        )
        panel(axes, label, known)
        axes.set_xlim(0, most * 1.02)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.axvline(1, color=FAINT, linewidth=0.8, linestyle=":", zorder=3)
        top -= count * THICK + ABOVE
    figure.text(
        1.55 / WIDE, (top + 0.12) / height,
        "▏ the ceiling: the passes through the net alone, in that precision",
        fontsize=7.5, color=INK, va="center",
    )  # fmt: skip
    return figure


def panel(axes: "Axes", label: str, known: dict[str, Row]) -> None:
    plain(axes)
    axes.set_title(label, loc="left", fontsize=9, color=INK, pad=3)
    providers = [p for p in known if p not in CEILINGS.values()]
    axes.set_ylim(len(providers), 0)
    axes.set_yticks([i + 0.5 for i in range(len(providers))], providers, fontsize=8)
    for place, provider in enumerate(providers):
        row = known[provider]
        faster = row["times_torchattacks"]
        axes.barh(place + 0.5, faster, height=0.8, color=OURS.get(provider, OTHERS), zorder=2)
        end = max(faster, 1.0)
        if provider in OURS:
            ceiling = known[CEILINGS[provider]]["times_torchattacks"]
            axes.plot([ceiling] * 2, [place + 0.02, place + 0.98], color=INK, linewidth=2, zorder=4)
            end = max(end, ceiling)
        axes.annotate(
            f"{number(faster)}×  {duration(milliseconds(row) or 0.0)}", (end, place + 0.5),
            xytext=(4, -0.5), textcoords="offset points", va="center", fontsize=7.5, color=INK,
        )  # fmt: skip
