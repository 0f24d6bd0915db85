"""The tables of the calls that people make, and of an audit, from the newest rows in bench/results."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.page.table import duration
from bench.records import RESULTS, ROOT, recorded
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, INK, SKY, new_figure, plain
from fastadv.text import in_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PAGE = RESULTS / "calls.md"
CALLS = ("FGSM", "PGD-10", "PGD-40")
Rows = dict[tuple[str, str, int, str], dict[str, Any]]


def newest() -> Rows:
    """Return the newest row of each case; those of before 2026-11-29 timed no accuracy beside ours."""
    return {
        (row["net"], row["call"], row["images"], row["way"]): row
        for row in recorded(RESULTS / "calls.jsonl")
        if "work" in row or row["call"] == "memory"
    }


def table(rows: Rows) -> Iterator[list[str]]:
    """Yield the lines of the table: torchattacks' time divided by ours, plain / frozen once."""
    yield ["network", "images", *CALLS, "plain loop, PGD-10", "first call, PGD-10"]
    shown = dict.fromkeys((net, images) for net, call, images, _ in rows if call != "memory")
    order = list(dict.fromkeys(net for net, _ in shown))
    for net, images in sorted(shown, key=lambda row: (order.index(row[0]), row[1])):
        cells = []
        for call in CALLS:
            both = [rows.get((net, call, images, way)) for way in WAYS]
            cells.append("-" if None in both else " / ".join(_bold(row["times"]) for row in both if row))
        for way, figure in (("loop", "times"), ("plain", "first")):
            row = rows.get((net, "PGD-10", images, way))
            cells.append("-" if row is None else f"{row[figure]:.2f}")
        yield [net, str(images), *cells]


# of README's table: the call, the network, and its most images
SHOWN = (("PGD-10", "ResNet-18"), ("FGSM", "ResNet-18"), ("FGSM", "MLP"))


def summary(rows: Rows) -> str:
    """Return README's table: how many times as fast as others some calls are, and an audit."""
    place = "on a CPU ({cpu}, {threads} threads)".format(**next(iter(rows.values())))
    lines = [[place, "times as fast as", "plain call", "frozen once"]]
    for call, net in SHOWN:
        images = max(images for of, made, images, _ in rows if (of, made) == (net, call))
        both = (_bold(rows[net, call, images, way]["times"], ".2g") for way in WAYS)
        lines.append([f"{call} and accuracy, {net}, {images} images", "torchattacks", *both])
    return in_markdown([*lines, audit()], names=2) + "\n"


def audit() -> list[str]:
    """Return the line of README's table on an audit of the plan "quick", beside the whole of AutoAttack."""
    rows = {row["plan"]: row for row in recorded(RESULTS / "audit.jsonl")}  # the newest
    whole, part = rows["standard"], rows["quick"]
    points = 100 * (part["audit"]["high"] - part["audit"]["low"])
    what = f"[audit](docs/guides/audit.md) of {part['images']:,} images, to {points:.1f} points"
    return [what, "AutoAttack of all", "", _bold(whole["seconds"] / part["seconds"], ".2g")]


def _bold(times: float, form: str = ".2f") -> str:
    return f"**{times:{form}}**" if times < 0.95 else f"{times:{form}}"


def text(rows: Rows) -> str:
    about = list(rows.values())[-1]
    held = {key: row["mib"] for key, row in rows.items() if key[1] == "memory"}
    memory = list[str]()
    for (net, _, images, way), loop in held.items():
        if way == "loop":
            own = (held.get((net, "memory", images, each)) for each in ("plain", "frozen"))
            memory.append(f"{net} " + " / ".join("-" if mib is None else f"{mib / loop:.2f}" for mib in own))
    auto = [row for key, row in rows.items() if key[1] == "AutoAttack" and key[3] in ("plain", "frozen")]
    made = " and ".join(sorted({row["date"] for row in rows.values() if row["call"] != "memory"}))
    told = ", ".join(f"{row['net']} {row['way']} {row['times']:.2f}" for row in auto)
    lines = [
        in_markdown([*table(rows)], names=7),
        "",
        f"{about['cpu']}, {about['threads']} threads, PyTorch {about['torch']}, {made}. "
        f"AutoAttack on 16 images: {told}.",
    ]
    if memory:
        lines.append(f"Memory that PGD-10 adds, plain / frozen, in times of the loop's: {', '.join(memory)}.")
    return "\n".join(("", *lines, ""))


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
    from PIL import Image

    with Image.open(folder / name) as picture:
        return bool(picture.info.get("Comment") == digest(shown))
