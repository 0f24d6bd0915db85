"""Draw architecture.png: what an attack runs on, and what proves its result.

python docs/figures/architecture.py
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from fastadv.card import telling
from fastadv.evaluation.figures.style import BLUE, FAINT, GREEN, INK, VERMILION, new_figure, save

WIDTH, HEIGHT = 8.6, 3.3  # inches, and the units of the axes
BOXES = {  # name: left, bottom, width, color of the border, what it says
    "your model": (0.1, 1.35, 1.38, INK, "any PyTorch classifier"),
    "freeze": (1.9, 1.35, 1.4, INK, "once for each model"),
    "search copy": (3.75, 2.15, 1.75, BLUE, "folded, fast layout,\nbf16 if you ask"),
    "final check": (3.75, 0.45, 1.75, GREEN, "your model itself,\nin eval mode"),
    "attack loop": (6.2, 2.15, 2.2, BLUE, "gradient, step, projection:\nonly samples not yet broken"),
    "proof": (6.2, 0.45, 2.2, GREEN, "does your model misread x_adv,\nand is it within the radius?"),
}
TALL = 0.8
ARROWS = (  # from, to, what flows
    ((1.48, 1.75), (1.9, 1.75), ""),
    ((3.3, 1.9), (3.75, 2.5), ""),
    ((3.3, 1.6), (3.75, 0.9), ""),
    ((5.5, 2.55), (6.2, 2.55), "gradients"),
    ((5.5, 0.85), (6.2, 0.85), "classes"),
    ((7.0, 2.15), (7.0, 1.25), "candidates "),
    ((7.6, 1.25), (7.6, 2.15), " not broken:\n goes on"),
)


def box(axes: Axes, name: str) -> None:
    left, bottom, wide, color, said = BOXES[name]
    look = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": "white", "linewidth": 1.6}
    axes.add_patch(FancyBboxPatch((left, bottom), wide, TALL, edgecolor=color, zorder=2, **look))
    middle, lines = left + wide / 2, said.count("\n") + 1
    up = bottom + TALL / 2 + (0.18 + 0.14 * lines) / 2
    axes.text(middle, up, name, fontsize=9, fontweight="bold", color=color, ha="center", va="top")
    axes.text(middle, up - 0.19, said, fontsize=7.5, color=INK, ha="center", va="top", linespacing=1.25)


def main() -> None:
    figure = new_figure(WIDTH, HEIGHT, "An attack searches on a fast copy and is proved on your model")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    for name in BOXES:
        box(axes, name)
    for start, end, said in ARROWS:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": FAINT, "linewidth": 1.2})
        across, up = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        if start[0] == end[0]:
            side = "right" if start[1] > end[1] else "left"
            axes.text(across, up, said, fontsize=7.5, color=FAINT, ha=side, va="center")
        else:
            axes.text(across, up + 0.08, said, fontsize=7.5, color=FAINT, ha="center", va="bottom")
    look = {"arrowstyle": "-|>", "color": VERMILION, "linewidth": 1.2}
    axes.annotate("", (7.3, 0.12), (7.3, 0.45), arrowprops=look)
    told = "AttackResult: x_adv, success, flags, cost"
    axes.text(7.2, 0.2, told, fontsize=8, color=VERMILION, ha="right", va="center")
    with telling(command="python docs/figures/architecture.py", seed="none"):
        save(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
