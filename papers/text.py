"""How figures are written: shares as percentages, numbers to three digits, tables as text and in Markdown."""

import math
from collections.abc import Sequence


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share from 0 to 1 as a percentage, with up to three digits more near 0 and 1."""
    if value is None or math.isnan(value):
        return "-"
    texts = [f"{100 * value:.{places}f}" for places in range(digits, digits + 4)]
    exact = value in (0, 1)
    return next((text for text in texts if exact or float(text) not in (0, 100)), texts[0]) + "%"


def number(value: float | None) -> str:
    """Return a number to three digits."""
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"


def finite(value: float) -> float | None:
    """Return the number; None for an infinity or NaN, which JSON lacks."""
    return value if math.isfinite(value) else None


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return a table as plain text: the head cells[0], a rule, and the lines; all but names to the right."""
    lines = [[cell.replace("\n", " ") for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def in_markdown(cells: Sequence[Sequence[str]], names: int = 1) -> str:
    """Return the same as a Markdown table; columns after the first `names` to the right."""
    rule = ["---" if place < names else "---:" for place in range(len(cells[0]))]
    lines = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
