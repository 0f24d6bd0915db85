"""Tables of the page: the head, the lines, and those of the attacks and of what they cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastadv.evaluation.row import Row
from fastadv.evaluation.table import Table
from fastadv.text import number, percent, threat_text


@dataclass(frozen=True)
class Grid:
    """A table as text: its caption, the head, and the lines, of which the first cell is the name."""

    caption: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


def with_interval(value: str, ends: Sequence[str]) -> str:
    """Write a figure with its interval."""
    return f"{value} [{ends[0]}, {ends[1]}]"


def attacks(table: Table) -> Grid:
    """Return each attack with its accuracy and distances, and the worst of several."""
    head = ["attack", "threat", "accuracy [95%]", "broken", "median distance", "mean of the broken"]
    lines = [_line(row) for row in table.rows]
    if len(lines) > 1 and not math.isnan(table.worst_case):
        lines.append(["worst of all", "", percent(table.worst_case), "", "", ""])
    lines.insert(0, ["no attack", "", percent(table.clean_accuracy), "", "", ""])
    return Grid("Accuracy over all samples, and how far the attacks had to go", head, lines)


def _line(row: Row) -> list[str]:
    told = row.figures()
    middle = number(told["median_distance"])
    if row.minimum_norm:
        middle = with_interval(middle, [number(end) for end in row.median_interval])
    middle = middle.replace("inf", "∞")
    accuracy = with_interval(percent(row.robust_accuracy), [percent(end) for end in row.accuracy_interval])
    return [
        row.name,
        threat_text(row.threat),
        "-" if row.unlimited else accuracy,
        percent(row.success_rate),
        middle,
        number(told["mean_distance"]),
    ]


def costs(table: Table) -> Grid:
    """Return what each attack and the look for signs of masking took."""
    lines = [
        [row.name, f"{row.forwards:,}", f"{row.backwards:,}", f"{row.seconds:.1f}"] for row in table.rows
    ]
    if table.indicators is not None:
        seen = table.indicators
        lines.append(["signs of masking", f"{seen.forwards:,}", f"{seen.backwards:,}", "-"])
    lines.append(["the whole evaluation", "-", "-", f"{table.seconds:.1f}"])
    return Grid(
        "Samples passed through the model, forwards and backwards",
        ["", "forwards", "backwards", "seconds"],
        lines,
    )


def details(table: Table) -> list[Grid]:
    """Return the components of attacks that have some, and the draws of a randomized model."""
    return [Grid(name, cells[0], cells[1:]) for name, cells in table.details().items()]
