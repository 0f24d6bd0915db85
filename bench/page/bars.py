"""The figure of speed: PGD-10 as people call it, plain and on a frozen model, beside torchattacks.

Its file holds a digest of the rows that it shows: a test tells whether it is up to date.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.page.calls import Rows
from bench.page.rows import duration
from bench.records import ROOT
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, INK, SKY, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALL = "PGD-10"
WAYS = {"plain": SKY, "frozen": BLUE}
FOLDER = ROOT / "docs" / "figures"
MADE = {"command": "python -m bench.calls; python -m bench.page", "seed": "0"}
THICK, GAP, BELOW, WIDE, LEFT = 0.16, 0.14, 0.5, 7.4, 1.75  # inches


def shown(rows: Rows) -> list[list[dict[str, Any]]]:
    """Return of each network the ways of the call, on the most images that were measured."""
    most = {net: images for net, call, images, _ in sorted(rows) if call == CALL}
    nets = dict.fromkeys(net for net, *_ in rows if net in most)
    return [[rows[net, CALL, most[net], way] for way in WAYS] for net in nets]


def draw(nets: Sequence[Sequence[dict[str, Any]]]) -> "Figure":
    """Draw two bars a network: time as a share of torchattacks', shorter is better."""
    group = len(WAYS) * THICK + GAP
    tall = len(nets) * group
    height = tall + BELOW + 0.85
    figure = new_figure(WIDE, height, f"{CALL} as people call it: time relative to torchattacks")
    entries = [("fastadv, plain call", "s", SKY), ("fastadv, frozen once", "s", BLUE)]
    style.key(figure, LEFT, 0.45, [*entries, ("torchattacks", "-", INK)])
    axes = figure.add_axes((LEFT / WIDE, BELOW / height, (WIDE - LEFT - 0.3) / WIDE, tall / height))
    plain(axes)
    axes.set(xlim=(0, 1.85), ylim=(tall, 0), xticks=[])
    axes.spines["bottom"].set_visible(False)
    names = [f"{row['net']}, {row['images']} images" for row, *_ in nets]
    axes.set_yticks([(place + 0.5) * group for place in range(len(nets))], names, fontsize=8.5)
    axes.axvline(1, color=INK, linewidth=1.2, zorder=3)
    for place, ways in enumerate(nets):
        for line, (row, color) in enumerate(zip(ways, WAYS.values(), strict=True)):
            center, share = place * group + GAP / 2 + (line + 0.5) * THICK, 1 / row["times"]
            low, high = 1 / row["most"], 1 / row["least"]
            axes.barh(center, share, height=0.85 * THICK, color=color, zorder=2)
            axes.plot([low, high], [center] * 2, color=FAINT, linewidth=1, zorder=4)
            axes.annotate(
                f"{duration(row['ms'])}, {row['times']:.2f} ×", (max(high, share, 1), center),
                xytext=(4, -0.5), textcoords="offset points", va="center", fontsize=8, color=INK,
            )  # fmt: skip
    row = nets[0][0]
    told = f"shorter is better; ×: how many times as fast; lines: all turns. {row['cpu']}, "
    told += f"{row['threads']} threads, {row['date']}"
    figure.text(LEFT / WIDE, 0.25 / height, told, fontsize=8, color=INK, va="center")
    return figure


def digest(shown: Any) -> str:
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def save(
    figure: "Figure", name: str, nets: Sequence[Sequence[dict[str, Any]]], folder: Path = FOLDER
) -> None:
    """Write the figure with the digest of what it shows; its machine and days are those of the rows."""
    rows = [row for ways in nets for row in ways]
    days = sorted({row["date"][:10] for row in rows})
    measured = {
        "machine": ", ".join(sorted({row["cpu"] for row in rows})),
        "date": " to ".join(dict.fromkeys((days[0], days[-1]))),
    }
    style.save(figure, folder / name, {**MADE, **measured, "Comment": digest(nets)})


def up_to_date(name: str, shown: Any, folder: Path = FOLDER) -> bool:
    """Whether the figure was drawn from these rows."""
    from PIL import Image

    with Image.open(folder / name) as picture:
        return bool(picture.info.get("Comment") == digest(shown))
