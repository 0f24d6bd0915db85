"""Draw house.png: the rooms of the library by layer, their lines, and the way of one call through them.

python docs/figures/house.py
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from fastadv.card import telling
from fastadv.evaluation.figures.style import BLUE, FAINT, INK, VERMILION, new_figure, save

ROOT = Path(__file__).parents[2]
# rooms, top layer first; imports point down
LAYERS = (
    ("papers", "fastadv/cli"),
    ("fastadv/demo", "fastadv/adapters"),
    ("fastadv/train", "fastadv/evaluation", "fastadv/certify"),
    ("fastadv/measure",),
    ("fastadv/data",),
    ("fastadv/attacks", "fastadv/models"),
    ("fastadv/engine",),
    ("fastadv/threat",),
    ("fastadv/ops", "csrc"),
    ("fastadv/runs",),
)
CALL = ("fastadv/attacks", "fastadv/engine", "fastadv/threat", "fastadv/ops", "csrc")  # fa.attacks.pgd
WIDTH, HEIGHT, TALL, APART = 7.2, 5.0, 0.36, 0.12  # inches, and the units of the axes


def lines(room: str) -> int:
    files = (path for path in (ROOT / room).rglob("*") if path.suffix in {".py", ".cpp", ".h", ".inl"})
    return sum(len(path.read_text().splitlines()) for path in files if "tests" not in path.parts)


def row(axes: Axes, rooms: tuple[str, ...], bottom: float) -> None:
    wide = (WIDTH - 0.2 - APART * (len(rooms) - 1)) / len(rooms)
    for place, room in enumerate(rooms):
        left, called = 0.1 + place * (wide + APART), room in CALL
        look = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": "white", "linewidth": 1.4}
        axes.add_patch(
            FancyBboxPatch((left, bottom), wide, TALL, edgecolor=VERMILION if called else BLUE, **look)
        )
        axes.text(left + 0.1, bottom + TALL / 2, room, fontsize=9, color=INK, va="center")
        told = f"{lines(room):,} lines"
        axes.text(
            left + wide - 0.1, bottom + TALL / 2, told, fontsize=8, color=FAINT, va="center", ha="right"
        )


def main() -> None:
    figure = new_figure(
        WIDTH, HEIGHT, "Imports point down; the rooms that fa.attacks.pgd runs through are red"
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    for place, rooms in enumerate(LAYERS):
        row(axes, rooms, HEIGHT - 0.75 - place * (TALL + APART / 1.5))
    with telling(command="python docs/figures/house.py", seed="none"):
        save(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
