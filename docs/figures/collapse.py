"""Draw collapse.png: FGSM training that collapses, by the command on docs/papers/recipes.md.

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

# accuracy in percent, epoch by epoch
ACCURACY = {
    "clean": (91.4, 96.0, 96.0, 96.0, 95.6, 96.0, 96.4, 95.6, 96.0, 96.4),
    "training attack": (5.6, 29.6, 53.2, 60.8, 67.2, 69.0, 78.4, 81.8, 79.2, 84.6),
    "PGD-10": (0.0, 0.2, 2.6, 22.2, 26.4, 15.4, 10.2, 4.0, 0.6, 0.4),
}
COLORS = {"clean": BLUE, "training attack": GREEN, "PGD-10": VERMILION}
ALARM = 7  # the epoch that the page names


def main() -> None:
    figure = new_figure(6.2, 3.3, "Catastrophic overfitting: FGSM training without a random start")
    axes = figure.add_axes((0.09, 0.15, 0.7, 0.66))
    epochs = range(1, 1 + len(ACCURACY["clean"]))
    accuracy_axis(axes, epochs[-1], "epoch")
    axes.set_xlim(1, epochs[-1])
    axes.text(0, 1.03, "accuracy on 500 test images of MNIST, L∞ 0.3", transform=axes.transAxes, fontsize=8.5,
              color=FAINT, va="bottom")  # fmt: skip
    for name, percent in ACCURACY.items():
        axes.plot(epochs, [share / 100 for share in percent], label=name, color=COLORS[name], lw=2,
                  marker="o", ms=3.5, clip_on=False, zorder=3)  # fmt: skip
    name_lines(axes)
    axes.axvline(ALARM, color=PURPLE, linewidth=1.1, linestyle=(0, (2, 2)))
    axes.text(ALARM + 0.1, 0.45, f"alarm in epoch {ALARM}", color=PURPLE, fontsize=8.5)
    command = "python docs/figures/collapse.py (a run of fastadv train, written on docs/papers/recipes.md)"
    with telling(command=command, seed=0):
        save(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
