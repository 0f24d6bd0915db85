"""Whether a module still is what it was: what a copy of it has copied, and what it shares, are the same."""

import operator
from enum import Enum
from types import BuiltinFunctionType

import torch
from torch import Tensor, nn

from fastadv._torch import compiled_call
from fastadv.engine.copying.closures import inside

_PLAIN = {type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.layout}
_FIXED = (type, Enum, BuiltinFunctionType, torch.memory_format)
_CONTAINERS = (dict, list, tuple, set, frozenset)


class Standing:
    """What a module leads to, now: its parts, attributes, modes, hooks, and where its tensors lie.

    Values of tensors do not count: copies share them. `known` is False where it leads to an object of another
    kind, which may change unseen.
    """

    def __init__(self, model: nn.Module) -> None:
        # held, so that no other object gets an id of theirs
        self.things: list[object] = []
        self.places: list[object] = []
        self.known = True
        seen: set[int] = set()
        waiting: list[object] = [model]
        while waiting:
            value = waiting.pop()
            self.things.append(value)
            if type(value) in _PLAIN or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, Tensor):
                self.places += (value.data_ptr(), value.dtype, value.shape, value.stride())
            elif isinstance(value, nn.Module):
                self.things += vars(value)
                compiled = compiled_call(value)  # it leads to the compiler's own objects
                waiting += [held for held in vars(value).values() if held is not compiled]
                self.things.append(compiled)
            elif isinstance(value, _CONTAINERS):
                if isinstance(value, dict):
                    self.things += value
                if value:
                    waiting += inside(value)
            elif not isinstance(value, _FIXED):
                found = list(inside(value))
                self.known = self.known and bool(found)
                waiting += found

    def same(self, other: "Standing") -> bool:
        """Return whether nothing has changed between the two."""
        return (
            self.known
            and other.known
            and len(self.things) == len(other.things)
            and all(map(operator.is_, self.things, other.things))
            and self.places == other.places
        )
