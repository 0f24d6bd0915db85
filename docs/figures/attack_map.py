"""Draw attack_map.png from the cards of the attacks: what each must know, looks for, and in which norm.

python docs/figures/attack_map.py
"""

import textwrap
from collections import defaultdict
from pathlib import Path

import fastadv as fa
from fastadv.evaluation.figures.style import BLUE, FAINT, FRAME, INK, VERMILION, key, new_figure, save
from fastadv.runs.card import telling
from fastadv.threat import THREATS

KNOWLEDGE = {
    "gradient": "gradients\n1 to 1,000 steps,\nseveral searches",
    "score": "scores\n5,000 to 10,000\nqueries",
    "decision": "decisions\n1,000 to 25,000\nqueries",
    "none": "nothing\nof the model",
}
COLORS = {"budget": BLUE, "minimum": VERMILION}
NORMS = ("linf", "l2", "l1", "l0")
LEFT, TOP, WIDE, LINE = 1.3, 0.85, 2.05, 0.145  # inches
CHARACTERS = 30  # of a line in a cell


def cells() -> dict[tuple[str, str], dict[str, list[str]]]:
    """Return by (knowledge, norm) the attacks of each kind."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, card in sorted(fa.attacks.ATTACKS.items()):
        for norm in card.norms:
            found[card.knowledge, norm][card.kind].append(name)
    return found


def lines(kinds: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return the lines of a cell, each with its color."""
    return [
        (line, COLORS[kind])
        for kind in COLORS
        for line in textwrap.wrap(", ".join(kinds.get(kind, [])), CHARACTERS)
    ]


def main() -> None:
    found = {place: lines(kinds) for place, kinds in cells().items()}
    rows = [name for name in KNOWLEDGE if any(place[0] == name for place in found)]
    heights = [max(3, *(len(found.get((row, norm), [])) for norm in NORMS)) * LINE + 0.14 for row in rows]
    width, height = LEFT + WIDE * len(NORMS) + 0.1, TOP + sum(heights) + 0.1
    figure = new_figure(width, height, "Attacks by what they know, in each norm")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    named = {"the strongest point within a radius": "budget", "the smallest perturbation": "minimum"}
    key(figure, LEFT + 0.05, 0.42, [(name, "s", COLORS[kind]) for name, kind in named.items()])
    for column, norm in enumerate(NORMS):
        axes.text(
            LEFT + column * WIDE + 0.05,
            TOP - 0.08,
            THREATS[norm].symbol,
            fontsize=9.5,
            fontweight="bold",
            color=INK,
        )
    down = TOP
    for row, tall in zip(rows, heights, strict=True):
        axes.plot([0.08, width - 0.05], [down, down], color=FRAME, linewidth=0.8)
        what, _, cost = KNOWLEDGE[row].partition("\n")
        axes.text(0.1, down + 0.09, what, fontsize=8.5, fontweight="bold", color=INK, va="top")
        axes.text(0.1, down + 0.25, cost, fontsize=7.5, color=FAINT, va="top", linespacing=1.3)
        for column, norm in enumerate(NORMS):
            for place, (line, color) in enumerate(found.get((row, norm), [("-", FAINT)])):
                axes.text(
                    LEFT + column * WIDE + 0.05,
                    down + 0.09 + place * LINE,
                    line,
                    fontsize=7.5,
                    color=color,
                    va="top",
                )
        down += tall
    with telling(command="python docs/figures/attack_map.py", seed="none"):
        save(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
