"""How many rows pass at once in the least time, by measurement, in place of the usual number."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.engine.architecture import digest
from fastadv.engine.choices import Seconds
from fastadv.engine.chooser import Chooser, is_faster, must_repeat
from fastadv.engine.stopwatch import agreed, in_turns

TURNS = 3  # in which parts of two sizes are timed; the first warms up


class PartSizes:
    """The fastest sizes of parts of one search twin, by the shape of the batch."""

    def __init__(self, search: nn.Module) -> None:
        """Know nothing yet of that twin."""
        self._search = search
        self._found: dict[tuple[Any, ...], int] = {}  # 0 for a batch that passed once

    def repeats(self, x: Tensor) -> bool:
        """Return whether as many rows like x passed before."""
        known = (key := _kind_of(x)) in self._found
        self._found.setdefault(key, 0)
        return known

    def fastest(
        self, chooser: Chooser, x: Tensor, usual: int, least: int, take: Callable[[slice], object]
    ) -> int:
        """Return how many rows of x, at least `least`, pass at once in the least time, in place of `usual`.

        take: passes a part of x, to measure what this machine does not know yet of such an architecture.
        """
        key = _kind_of(x)
        if not self._found.get(key):
            best, shape = (usual, 1.0), "x".join(map(str, x.shape[1:]))
            kind = f"{digest(self._search)} {shape}, threads {key[-1]}"
            for rows in others(usual, least, len(x)):
                call = f"rows {rows}, not {usual}, of {kind}"
                taken = chooser.seconds(call, partial(compared, take, rows, usual))
                if taken is not None and is_faster(taken) and taken[0] / taken[1] < best[1]:
                    best = rows, taken[0] / taken[1]
            self._found[key] = best[0]
        return self._found[key]


def others(usual: int, least: int, most: int) -> list[int]:
    """Return the other numbers of rows that are tried, the likeliest first."""
    return [rows for rows in (2 * usual, usual // 2, 4 * usual) if least <= rows <= most]


def compared(take: Callable[[slice], object], rows: int, usual: int, most: float) -> Seconds | None:
    """Return the seconds a row of either part; None as soon as more than `most` would be taken in all."""
    parts = [partial(take, slice(0, count)) for count in (usual, rows)]
    taken = in_turns(parts, TURNS, most, costs=[1.0, rows / usual])
    if taken is None:
        return None
    by_row = [
        [seconds / count for seconds in times[1:]] for times, count in zip(taken, (usual, rows), strict=True)
    ]
    return agreed(by_row[1], by_row[0])


def _kind_of(x: Tensor) -> tuple[Any, ...]:
    return len(x), x.dtype, x.shape[1:], must_repeat(), torch.get_num_threads()
