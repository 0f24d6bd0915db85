"""Draw collapse.png: FGSM training that collapses, from the table in docs/papers/recipes.md.

python docs/figures/collapse.py
"""

from pathlib import Path

from fastadv.card import telling
from fastadv.evaluation.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    PURPLE,
    VERMILION,
    accuracy_axis,
    name_lines,
    new_figure,
    save,
)  # fmt: skip

PAGE = Path(__file__).parents[1] / "papers" / "recipes.md"
COLORS = {"clean": BLUE, "own examples": GREEN, "PGD-10": VERMILION}
SHOWN = {"own examples": "training attack"}
ALARM = 7  # the epoch that the page names


def table() -> dict[str, list[float]]:
    """Return the rows of the page's table of the collapse, from 0 to 1, by name."""
    _, _, section = PAGE.read_text().partition("## A collapse, and its alarm")
    rows = (line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| "))
    found: dict[str, list[float]] = {}
    for name, *shares in rows:
        if name in COLORS and name not in found:
            found[name] = [float(share.rstrip(" |%")) / 100 for share in shares]
    return found


def main() -> None:
    found = table()
    figure = new_figure(6.2, 3.3, "Catastrophic overfitting: FGSM training without a random start")
    axes = figure.add_axes((0.09, 0.15, 0.7, 0.66))
    epochs = range(1, 1 + len(found["clean"]))
    accuracy_axis(axes, epochs[-1], "epoch")
    axes.set_xlim(1, epochs[-1])
    axes.text(0, 1.03, "accuracy on 500 test images of MNIST, L∞ 0.3", transform=axes.transAxes, fontsize=8.5,
              color=FAINT, va="bottom")  # fmt: skip
    for name, shares in found.items():
        shown, color = SHOWN.get(name, name), COLORS[name]
        axes.plot(epochs, shares, label=shown, color=color, lw=2, marker="o", ms=3.5, clip_on=False, zorder=3)
    name_lines(axes)
    axes.axvline(ALARM, color=PURPLE, linewidth=1.1, linestyle=(0, (2, 2)))
    axes.text(ALARM + 0.1, 0.45, f"alarm in epoch {ALARM}", color=PURPLE, fontsize=8.5)
    command = "python docs/figures/collapse.py (a run of fastadv train, written on docs/papers/recipes.md)"
    with telling(command=command, seed=0):
        save(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
