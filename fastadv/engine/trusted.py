"""Which gradients of a search have been compared with the model's."""

from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastadv.engine.options import Options

FOUR = 2  # bits of a number: sizes up to four times each other are of one class


def size_class(x: Tensor) -> Hashable:
    """Return what batches have in common that take the same ways through kernels."""
    return x.dtype, tuple(x.shape[1:]), len(x).bit_length() // FOUR


def captures(x: Tensor) -> bool:
    """Return whether a CUDA graph is being captured, where no value can be read."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


class Trusted:
    """The kinds of passes that were compared, by the rewrites they used and the sizes of their batches."""

    def __init__(self) -> None:
        # the most rows that were compared, by rewrites and size class
        self._most: dict[tuple[Hashable, Hashable], int] = {}
        self.off: frozenset[str] = frozenset()  # rewrites that were wrong

    @classmethod
    def of(cls, source: object, given: object, options: Options) -> "Trusted":
        """Return those known from the last time, of a model that follows its source; else new ones."""
        follows = options.follow or not options.fold
        if not (follows and isinstance(source, nn.Module) and isinstance(given, nn.Module)):
            return cls()
        return _following.setdefault(source, {}).setdefault((options, _build(given)), cls())

    def knows(self, used: Hashable, x: Tensor) -> bool:
        """Return whether a pass of as many rows like x, or more of the same size class, was compared."""
        return len(x) <= self._most.get((used, size_class(x)), 0)

    def knows_size(self, x: Tensor) -> bool:
        """Return whether any pass of as many rows was."""
        held, own = list(self._most.items()), size_class(x)  # another thread may add one meanwhile
        return any(kind == own and len(x) <= most for (_, kind), most in held)

    def forget(self) -> None:
        """Compare all kinds once more."""
        self._most = {}

    def add(self, used: Hashable, x: Tensor) -> None:
        """Take a pass of x with these rewrites."""
        self._most[used, size_class(x)] = max(self._most.get((used, size_class(x)), 0), len(x))


_following: "WeakKeyDictionary[nn.Module, dict[Any, Trusted]]" = WeakKeyDictionary()


def _build(model: nn.Module) -> Hashable:
    """Return what a model is made of, so that another one put together since is not trusted in its place."""
    own = ("forward", "_conv_forward")
    return tuple((type(part), *(name for name in own if name in vars(part))) for part in model.modules())
