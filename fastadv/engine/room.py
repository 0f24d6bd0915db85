"""How many rows pass a model at once where memory runs out with more."""

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

log = logging.getLogger("fastadv")

T = TypeVar("T")  # a tensor [B, ...], or a tuple of such


def ran_out(error: BaseException) -> bool:
    """Whether the error says that memory ran out: that of a GPU, or what the system gives to a process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def slices(size: int, most: int) -> list[slice]:
    """As few parts of `size` rows as have at most so many: of nearly equal size, since a model may mind a
    single row.
    """
    count = max(math.ceil(size / max(most, 1)), 1)
    ends = [math.ceil(size * part / count) for part in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def cut(part: slice, *others: Tensor | None) -> list[Tensor | None]:
    """The rows of a part."""
    return [None if other is None else other[part] for other in others]


def joined(parts: list[T]) -> T:
    """The results of the parts as one."""
    results: list[Any] = parts
    if isinstance(parts[0], Tensor):
        return cast(T, torch.cat(results))
    return cast(T, tuple(torch.cat(each) for each in zip(*results, strict=True)))


class Room:
    """The most rows of each shape that were found to fit; a pass that does not is done again in halves."""

    def __init__(self) -> None:
        self._most: dict[Any, int] = {}

    def most(self, kind: str, x: Tensor) -> int:
        """How many of the rows of x are known to fit into that pass, or not known not to."""
        return min(self._most.get(self._key(kind, x), len(x)), len(x))

    @staticmethod
    def _key(kind: str, x: Tensor) -> Any:
        return kind, x.dtype, *x.shape[1:]

    def fitted(self, run: Callable[..., T], kind: str, x: Tensor, *others: Tensor | None) -> T:
        """run(x, *others), of whose rows as many pass at once as memory allows; results [B, ...] are joined.

        kind: names the pass: another one may have room for other numbers of rows.
        """
        key = self._key(kind, x)
        if self.most(kind, x) >= len(x):
            try:
                return run(x, *others)
            except (RuntimeError, MemoryError) as error:
                if len(x) < 2 or not ran_out(error):
                    raise
            # only here: the error holds on to what the pass had in memory
            self._most[key] = (len(x) + 1) // 2
            log.warning(
                "memory ran out with %d samples of shape %s at once; going on with %d",
                len(x), tuple(x.shape[1:]), self._most[key],
            )  # fmt: skip
            if x.is_cuda:
                torch.cuda.empty_cache()
        parts = slices(len(x), self._most[key])
        return joined([self.fitted(run, kind, x[part], *cut(part, *others)) for part in parts])


_known: "WeakKeyDictionary[nn.Module, Room]" = WeakKeyDictionary()


def room_of(model: object) -> Room:
    """What is known of the model so far; of a function, nothing is kept."""
    return _known.setdefault(model, Room()) if isinstance(model, nn.Module) else Room()
