"""The figure of speed: PGD on four networks against its peers on one machine, with the range of the turns.

Its file holds a digest of the rows that it shows: a test tells whether it is up to date.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.anchor.ways import FROZEN, UNFROZEN, Way
from bench.page.anchor import called
from bench.page.machines import Machine, best, rows
from bench.page.rows import Row, duration
from bench.providers import COMPILED, LOOP
from bench.records import ROOT
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, INK, SKY, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE = Way("torchattacks")
KEPT = ("torchattacks", "adv-lib", LOOP, COMPILED)
COLORS = dict(zip((UNFROZEN, *FROZEN), (BLUE, BLUE, SKY), strict=True))
SHOWN = (BASE, *(Way(peer, kept=True) for peer in KEPT), *map(Way, COLORS))
OTHERS = "#BBBBBB"
FOLDER = ROOT / "docs" / "figures"
MADE = {"command": "python bench/run.py; python -m bench.page", "seed": "0"}
THICK, BELOW, ABOVE, WIDE, LEFT = 0.19, 0.75, 0.33, 7.4, 2.05  # inches


def draw(machine: Machine) -> "Figure":
    """One panel a network: time as a share of torchattacks', shorter is better."""
    most = max(known[way]["p80_ms"] / known[BASE]["p50_ms"] for known in machine.values() for way in SHOWN)
    tall = len(SHOWN) * THICK + ABOVE
    height = len(machine) * tall + BELOW + 0.3
    figure = new_figure(
        WIDE, height, "PGD, the same steps: time relative to torchattacks (shorter is better)"
    )
    top = height - 0.55
    for label, known in machine.items():
        bottom, wide = top - len(SHOWN) * THICK, WIDE - LEFT - 1.25
        axes = figure.add_axes((LEFT / WIDE, bottom / height, wide / WIDE, len(SHOWN) * THICK / height))
        panel(axes, label, known)
        axes.set_xlim(0, most)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        top -= tall
    row = rows(machine)[0]
    figure.text(
        LEFT / WIDE, (top + 0.05) / height,
        "medians; lines from the 20th to the 80th percentile of the turns; dotted: the fastest peer\n"
        f"pages kept: the C library keeps freed memory. {row['cpu']}, {row['threads']} threads, "
        f"{row['days'][-1]}",
        fontsize=7.5, color=INK, va="center",
    )  # fmt: skip
    return figure


def panel(axes: "Axes", label: str, known: dict[Way, Row]) -> None:
    """The bars of one network, each with its seconds."""
    plain(axes)
    axes.set_title(label, loc="left", fontsize=9, color=INK, pad=3)
    axes.set_ylim(len(SHOWN), 0)
    axes.set_yticks([i + 0.5 for i in range(len(SHOWN))], [called(way) for way in SHOWN], fontsize=8)
    base = known[BASE]["p50_ms"]
    axes.axvline(known[best(known)]["p50_ms"] / base, color=FAINT, linewidth=0.8, linestyle=":", zorder=3)
    for place, way in enumerate(SHOWN):
        row = known[way]
        low, middle, high = (row[key] / base for key in ("p20_ms", "p50_ms", "p80_ms"))
        axes.barh(place + 0.5, middle, height=0.8, color=COLORS.get(way.provider, OTHERS), zorder=2)
        axes.plot([low, high], [place + 0.5] * 2, color=INK, linewidth=1.2, zorder=4)
        axes.annotate(
            duration(row["p50_ms"]), (max(high, middle), place + 0.5), xytext=(4, -0.5),
            textcoords="offset points", va="center", fontsize=7.5, color=INK,
        )  # fmt: skip


def digest(shown: Any) -> str:
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def save(figure: "Figure", name: str, shown: Any, folder: Path = FOLDER) -> None:
    """Write the figure with the digest of what it shows; its machine and days are those of the rows."""
    rows = list(_rows(shown))
    days = sorted({row["date"][:10] for row in rows})
    measured = {
        "machine": ", ".join(sorted({row["cpu"] for row in rows})),
        "date": " to ".join(dict.fromkeys((days[0], days[-1]))),
    }
    style.save(figure, folder / name, {**MADE, **measured, "Comment": digest(shown)})


def _rows(shown: Any) -> Iterator[Row]:
    """Yield the rows, however they are nested."""
    if isinstance(shown, dict) and "provider" in shown:
        yield shown
    elif isinstance(shown, dict | list):
        for part in shown.values() if isinstance(shown, dict) else shown:
            yield from _rows(part)


def up_to_date(name: str, shown: Any, folder: Path = FOLDER) -> bool:
    """Whether the figure was drawn from these rows."""
    from PIL import Image

    with Image.open(folder / name) as picture:
        return bool(picture.info.get("Comment") == digest(shown))
