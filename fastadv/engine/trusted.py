"""Which passes of a search copy have been compared with the model's."""

from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastadv.engine.options import Options

FOUR = 2  # bits of a number: sizes up to four times each other are of one class


def size_class(x: Tensor) -> Hashable:
    """What batches have in common that take the same ways through kernels."""
    return x.dtype, tuple(x.shape[1:]), len(x).bit_length() // FOUR


def captures(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, where no value can be read."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


class Trusted:
    """The kinds of passes that were compared."""

    def __init__(self) -> None:
        self._kinds: set[Hashable] = set()
        self.classes: set[Hashable] = set()

    @classmethod
    def of(cls, source: object, given: object, options: Options) -> "Trusted":
        """Those of a model that follows its source, which are known from its last time; else new ones."""
        if options.fold or not (isinstance(source, nn.Module) and isinstance(given, nn.Module)):
            return cls()
        return _following.setdefault(source, {}).setdefault((options, _build(given)), cls())

    def __contains__(self, kind: tuple[Hashable, Hashable]) -> bool:
        return kind in self._kinds

    def add(self, kind: tuple[Hashable, Hashable]) -> None:
        """Take the kind (rewrites used, size class)."""
        self._kinds.add(kind)
        self.classes.add(kind[1])


_following: "WeakKeyDictionary[nn.Module, dict[Any, Trusted]]" = WeakKeyDictionary()


def _build(model: nn.Module) -> Hashable:
    """What a model is made of, so that another one put together since is not trusted in its place."""
    own = ("forward", "_conv_forward")
    return tuple((type(part), *(name for name in own if name in vars(part))) for part in model.modules())
