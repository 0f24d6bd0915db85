"""What an object leads to: attributes, members of containers, variables of functions."""

import gc
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Enum
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

# what modules hold most often, and what leads nowhere
ATOMS = frozenset({type(None), bool, int, float, str, bytes})
HOLDERS = (dict, list, tuple, set, frozenset, deque, MethodType, partial, CellType)
LEAVES = (Tensor, type, ModuleType, Enum)
# packages whose objects lead to no model
FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}


def inside(value: object) -> Iterable[Any]:
    """Return what `value` leads to itself: attributes, or what a container or function holds."""
    if isinstance(value, HOLDERS):
        return gc.get_referents(value)
    if isinstance(value, FunctionType):
        return [value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)]
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, LEAVES) or (package in FOREIGN and not isinstance(value, nn.Module)):
        return ()
    return getattr(value, "__dict__", {}).values()


def content(cell: CellType) -> object:
    """Return what a variable of a closure holds; None where it has no value yet."""
    return next(iter(gc.get_referents(cell)), None)


def reachable(
    value: object,
    inside: Callable[[object], Iterable[Any]] = inside,
    but: Collection[int] = (),
) -> Iterator[object]:
    """Yield the objects that `value` leads to, itself included, each once; none of the types ATOMS."""
    seen: dict[int, object] = {}  # held, so that no other object gets an id of theirs
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if type(value) in ATOMS or id(value) in seen or id(value) in but:
            continue
        seen[id(value)] = value
        waiting += inside(value)
        yield value


def modules_in(value: object) -> Iterator[nn.Module]:
    return (part for part in reachable(value) if isinstance(part, nn.Module))


def holds_module(value: object) -> bool:
    return next(modules_in(value), None) is not None
