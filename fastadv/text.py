"""How figures are written: shares as percentages, numbers to three digits, a dash where there is none."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from html import escape

from torch import Tensor

from fastadv.threat import Named, Threat

__all__ = ["in_markdown", "number", "percent", "threat_text"]

Cells = Sequence[Sequence[str]]
"""A table as text: cells[0] is its head, and the first column has names."""


class Printable:
    """A result that prints and notebooks show alike."""

    @abstractmethod
    def contents(self) -> list[str | Cells]:
        """Return its parts, texts and tables."""

    def __str__(self) -> str:
        return in_text(self.contents())

    def _repr_html_(self) -> str:
        return in_html(self.contents())


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


def several(count: int, thing: str) -> str:
    """Return a count with the name of a thing: 1 sample, 1,000 samples."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def finite(value: float) -> float | None:
    """Return the number; None for an infinity or NaN, which JSON lacks."""
    return value if math.isfinite(value) else None


def with_interval(show: Callable[[float], str], value: float, interval: Sequence[float]) -> str:
    """Write a figure with its interval."""
    low, high = map(show, interval)
    return f"{show(value)} [{low}, {high}]"


def ends(low: float, high: float) -> str:
    """Return the ends of an interval of a share in percent, to a tenth where they are close: 23 to 48."""
    places = 0 if high - low > 0.05 else 1
    return "-" if math.isnan(low) else f"{100 * low:.{places}f} to {100 * high:.{places}f}"


def radius_text(threat: Threat) -> str:
    """Write the radius as the leaderboards do: 8/255 in Linf where it is a whole number of levels."""
    radius = float(threat.radius)
    levels = radius * 255
    whole = threat.norm == "linf" and 0 < levels < 255 and abs(levels - round(levels)) < 1e-6
    whole = whole and round(levels) % 51 != 0  # 51/255 is 0.2, and who asks for that means the decimal
    return f"{round(levels)}/255" if whole else f"{radius:g}"


def threat_text(threat: Threat | None) -> str:
    """Name a threat: L∞ 8/255."""
    if threat is None:
        return "not known"
    if isinstance(threat, Named):
        return threat.text
    if isinstance(threat.radius, Tensor) and threat.radius.ndim:
        return f"{threat.symbol}, a radius for each sample"
    return f"{threat.symbol} {radius_text(threat)}" if threat.finite else f"{threat.symbol}, any radius"


def allowed_text(threat: Threat, x: Tensor | None) -> str:
    """Say to a reader who knows no norms how far a sample of x [N, ...] may change."""
    if isinstance(threat, Named):
        return f"they are changed within {threat.text}"
    size = 0 if x is None else x[0].numel()
    part = "value" if x is None or x.ndim != 4 else "pixel" if x.shape[1] == 1 else "color value"
    most, share = radius_text(threat), float(threat.radius) / (threat.box[1] - threat.box[0])
    if threat.norm == "linf":
        return f"each {part} may change by {most}" + (f" ({percent(share, 0)} of its range)" if share else "")
    if threat.norm == "l0":
        return f"any {most} of {size:,} {part}s may change" if size else f"any {most} {part}s may change"
    most = f"their change has at most the {threat.symbol} norm {most}"
    if threat.norm == "l2" and size and share:
        return f"{most} (as much as every {part} by {percent(share / math.sqrt(size), 0)} of its range)"
    if threat.norm == "l1" and share:
        return f"{most} (as much as {number(share)} {part}s by their whole range)"
    return most


def aligned(cells: Cells) -> str:
    """Return a table as plain text: the head cells[0], a rule, and the lines; all but names to the right."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    text = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([text[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *text[1:]])


def in_text(parts: Sequence[str | Cells]) -> str:
    """Return texts and tables below each other."""
    return "\n".join(part if isinstance(part, str) else aligned(part) for part in parts)


def in_html(parts: Sequence[str | Cells]) -> str:
    """Return the same as HTML, for notebooks."""
    lines: list[str] = []
    for part in filter(None, parts):
        if isinstance(part, str):
            lines.append(f"<div>{escape(part.strip()).replace(chr(10), '<br>')}</div>")
            continue
        rows = [[f"<{'td' if k else 'th'}>{escape(cell)}" for cell in line] for k, line in enumerate(part)]
        rows = [[first.replace(">", ' style="text-align: left">', 1), *line] for first, *line in rows]
        lines += ["<table>", *(f"<tr>{''.join(line)}" for line in rows), "</table>"]
    return "\n".join(lines)


def in_markdown(cells: Cells, names: int = 1) -> str:
    """Return the same as a Markdown table; columns after the first `names` to the right."""
    rule = ["---" if place < names else "---:" for place in range(len(cells[0]))]
    lines = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def first_line(error: Exception) -> str:
    """Write what an error says in its first line, or its kind."""
    return str(error).partition("\n")[0] or type(error).__name__
