"""Accuracy under corruptions as bars: the mean over severities, with a line for each severity."""

from collections.abc import Sequence
from typing import NamedTuple

from fastadv.evaluation.corruption import ALEXNET, CorruptionTable
from fastadv.evaluation.corruption import TITLE as TITLE
from fastadv.text import percent

LEFT, TOP, RIGHT, STEP, HEIGHT = 160, 8, 580, 20, 13  # of the axes, and from bar to bar, in the drawing


class Bar(NamedTuple):
    name: str
    y: int
    mean: float
    text: str
    shares: Sequence[float]  # at each severity


def bars(table: CorruptionTable) -> list[Bar]:
    """Return a bar for each corruption, in the paper's order, those that are no part of the fifteen last."""
    known = dict(zip(table.names, table.accuracy.tolist(), strict=True))
    names = [*filter(known.get, ALEXNET), *(name for name in known if name not in ALEXNET)]
    means = table.by_name
    return [
        Bar(name, TOP + STEP * place, means[name], percent(means[name]), known[name])
        for place, name in enumerate(names)
    ]


def across(share: float) -> float:
    """Return where a share stands."""
    return round(LEFT + (RIGHT - LEFT) * share, 1)
