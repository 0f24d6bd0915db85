"""How many rows pass a model at once where memory runs out."""

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastadv.engine.capture import release

log = logging.getLogger("fastadv")

# kinds of passes, each with room for its own number of rows: a step of most attacks, and the model as given
GRADIENT, VERDICT = "gradient", "verdict"

T = TypeVar("T")  # a tensor [B, ...], or a tuple of such


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU or of the process ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def slices(size: int, most: int) -> list[slice]:
    """Split `size` rows into the fewest nearly equal slices of at most `most` rows."""
    count = max(math.ceil(size / max(most, 1)), 1)
    ends = [math.ceil(size * part / count) for part in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def cut(part: slice, *others: Tensor | None) -> list[Tensor | None]:
    return [None if other is None else other[part] for other in others]


def joined(parts: list[T]) -> T:
    results: list[Any] = parts
    if isinstance(parts[0], Tensor):
        return cast(T, torch.cat(results))
    return cast(T, tuple(torch.cat(each) for each in zip(*results, strict=True)))


class Room:
    """The most rows of each shape that were found to fit."""

    def __init__(self) -> None:
        self._most: dict[Any, int] = {}

    def most(self, kind: str, x: Tensor) -> int:
        """Return how many rows of x fit into that kind of pass, as far as is known."""
        rows = x.shape[0]
        return min(self._most.get((kind, x.dtype, x.shape[1:]), rows), rows) if self._most else rows

    def halved(self, kind: str, x: Tensor, todo: list[slice]) -> list[slice]:
        """Split the parts of x in `todo`, the first of which did not fit, into parts of half its size."""
        count = todo[0].stop - todo[0].start
        most = self._most[kind, x.dtype, x.shape[1:]] = (count + 1) // 2
        log.warning(
            "memory ran out with %d samples of shape %s at once; going on with %d",
            count, tuple(x.shape[1:]), most,
        )  # fmt: skip
        release()
        if x.is_cuda:
            torch.cuda.empty_cache()
        return [
            slice(part.start + piece.start, part.start + piece.stop)
            for part in todo
            for piece in slices(part.stop - part.start, most)
        ]

    def passes(
        self, kind: str, step: Callable[..., T], x: Tensor, *rows: Tensor | None, apart: Callable[[], bool],
        most: int = 0,
    ) -> T:  # fmt: skip
        """Return step(x, *rows), in parts of `most` rows or what fits, if they may pass `apart`."""
        todo, made = slices(len(x), min(most or len(x), self.most(kind, x))), list[T]()
        while todo:
            part = todo[0]
            count = part.stop - part.start
            try:
                made.append(step(x, *rows) if count == len(x) else step(x[part], *cut(part, *rows)))
                todo = todo[1:]
                continue
            except Exception as error:
                if count < 2 or not ran_out(error) or not apart():
                    raise
            # only here: the error holds on to what the pass had in memory
            todo = self.halved(kind, x, todo)
        return made[0] if len(made) == 1 else joined(made)


_known: "WeakKeyDictionary[nn.Module, Room]" = WeakKeyDictionary()


def room_of(model: object) -> Room:
    """Return what is known of the model so far; of a function, nothing is kept."""
    return _known.setdefault(model, Room()) if isinstance(model, nn.Module) else Room()
