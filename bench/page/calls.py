"""The table of the calls that people make, from the newest rows of bench/results/calls.jsonl."""

from collections.abc import Iterator
from typing import Any

from bench.records import RESULTS, recorded

PAGE = RESULTS / "calls.md"
CALLS = ("FGSM", "PGD-10", "PGD-40")
Rows = dict[tuple[str, str, int, str], dict[str, Any]]


def newest() -> Rows:
    """Return the last row of each net, call, number of images and way."""
    return {
        (row["net"], row["call"], row["images"], row["way"]): row for row in recorded(RESULTS / "calls.jsonl")
    }


def table(rows: Rows) -> Iterator[str]:
    """Yield the lines of the table: torchattacks' time divided by ours, plain / frozen once."""
    yield "| network | images | " + " | ".join(CALLS) + " | plain loop, PGD-10 | first call, PGD-10 |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    shown = dict.fromkeys((net, images) for net, call, images, _ in rows if call != "memory")
    order = list(dict.fromkeys(net for net, _ in shown))
    for net, images in sorted(shown, key=lambda row: (order.index(row[0]), row[1])):
        cells = [_pair(rows, net, call, images) for call in CALLS]
        loop = rows.get((net, "PGD-10", images, "loop"))
        first = rows.get((net, "PGD-10", images, "plain"))
        cells += [
            "-" if loop is None else f"{loop['times']:.2f}",
            "-" if first is None else f"{first['first']:.2f}",
        ]
        yield f"| {net} | {images} | {' | '.join(cells)} |"


def _pair(rows: Rows, net: str, call: str, images: int) -> str:
    found = [rows.get((net, call, images, way)) for way in ("plain", "frozen")]
    if None in found:
        return "-"
    return " / ".join(_bold(row["times"]) for row in found if row)


def _bold(times: float) -> str:
    return f"**{times:.2f}**" if times < 0.95 else f"{times:.2f}"


def text() -> str:
    """Return what stands between the markers of the page."""
    rows = newest()
    about = list(rows.values())[-1]
    held = {key: row["mib"] for key, row in rows.items() if key[1] == "memory"}
    memory = list[str]()
    for (net, _, images, way), loop in held.items():
        if way == "loop":
            own = (held.get((net, "memory", images, each)) for each in ("plain", "frozen"))
            memory.append(f"{net} " + " / ".join("-" if mib is None else f"{mib / loop:.2f}" for mib in own))
    auto = [row for key, row in rows.items() if key[1] == "AutoAttack" and key[3] in ("plain", "frozen")]
    made = " and ".join(sorted({row["date"] for row in rows.values()}))
    told = ", ".join(f"{row['net']} {row['way']} {row['times']:.2f}" for row in auto)
    lines = [
        *table(rows),
        "",
        f"{about['cpu']}, {about['threads']} threads, PyTorch {about['torch']}, {made}. "
        f"AutoAttack on 16 images: {told}.",
    ]
    if memory:
        lines.append(f"Memory that PGD-10 adds, plain / frozen, in times of the loop's: {', '.join(memory)}.")
    return "\n".join(("", *lines, ""))
