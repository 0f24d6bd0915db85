"""Which logits and gradients of a search have been compared with the model's."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastadv.engine.options import Options

Used = tuple[Hashable, ...]

FOUR = 2  # bits of a number: sizes up to four times each other are of one class
GROWN = 4  # values so many times larger are of another class
EVERY = 64  # passes of one kind, after which a few rows are compared once more
ROWS, FEW = 16, 4  # that are compared of a new kind; of one known, for another number of rows or once more


def size_class(x: Tensor) -> Hashable:
    """Return what batches have in common that take the same ways through kernels."""
    return x.dtype, tuple(x.shape[1:]), len(x).bit_length() // FOUR, torch.get_num_threads()


def largest(values: Tensor) -> float:
    """Return the largest finite size of the values; 1 where reading it would wait for a device."""
    if values.device.type != "cpu" or not values.numel():
        return 1.0
    least, most = values.aminmax()
    size = max(-float(least), float(most))
    return size if size < torch.inf else float(values.nan_to_num(0.0, 0.0, 0.0).abs().max())


def captures(x: Tensor) -> bool:
    """Return whether a CUDA graph is being captured, where no value can be read."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


@dataclass
class Known:
    """What was compared of a kind of passes: numbers of rows, the largest values, and how long that holds."""

    counts: set[int] = field(default_factory=set)
    x: float = 0.0
    logits: float = 0.0
    left: int = EVERY


class Trusted:
    """The kinds of passes that were compared, by their sizes, values and threads, and by what they used.

    That begins with whether a gradient was taken; the rewrites follow.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Used, Hashable], Known] = {}
        self.off: frozenset[str] = frozenset()  # rewrites that were wrong

    @classmethod
    def of(cls, source: object, given: object, options: Options) -> "Trusted":
        """Return those known from the last time, of a model that follows its source; else new ones."""
        follows = options.follow or not options.fold
        if not (follows and isinstance(source, nn.Module) and isinstance(given, nn.Module)):
            return cls()
        return _following.setdefault(source, {}).setdefault((options, _build(given)), cls())

    def owed(self, used: Used, x: Tensor, logits: Tensor) -> int:
        """Return how many rows of a pass of x, which gave these logits, are to be compared."""
        known = self._known.get((used, size_class(x)))
        if known is None or largest(x) > GROWN * known.x or largest(logits) > GROWN * known.logits:
            return ROWS
        known.left -= 1
        return FEW if known.left < 0 or len(x) not in known.counts else 0

    def knows_size(self, x: Tensor) -> bool:
        """Return whether the gradient of any pass of as many rows was compared, or of more of that class."""
        held, own = list(self._known.items()), size_class(x)  # another thread may add one meanwhile
        return any(
            used[0] and kind == own and len(x) <= max(known.counts, default=0) for (used, kind), known in held
        )

    def forget(self) -> None:
        """Compare all kinds once more."""
        self._known = {}

    def add(self, used: Used, x: Tensor, logits: Tensor) -> None:
        """Take a pass of x with these rewrites, which gave these logits."""
        known = self._known.setdefault((used, size_class(x)), Known())
        known.counts.add(len(x))
        known.x, known.logits = max(known.x, largest(x)), max(known.logits, largest(logits))
        known.left = EVERY


_following: "WeakKeyDictionary[nn.Module, dict[Any, Trusted]]" = WeakKeyDictionary()


def _build(model: nn.Module) -> Hashable:
    """Return what a model is made of, so that another one put together since is not trusted in its place."""
    own = ("forward", "_conv_forward")
    return tuple((type(part), *(name for name in own if name in vars(part))) for part in model.modules())
