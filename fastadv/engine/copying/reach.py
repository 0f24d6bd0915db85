"""What an object leads to: attributes, members of containers, variables of functions."""

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
# packages whose objects lead to no model
FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}


def inside(value: object) -> Iterable[Any]:
    """Return what `value` leads to itself: attributes, or what a container or function holds."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, nn.Module):
        return vars(value).values()
    if isinstance(value, list | tuple | set | frozenset | deque):
        return value
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, FunctionType):
        cells = map(content, value.__closure__ or ())
        return [*cells, value.__defaults__, value.__kwdefaults__, vars(value)]
    if isinstance(value, Tensor | type | ModuleType | Enum) or package(type(value)) in FOREIGN:
        return ()
    return getattr(value, "__dict__", {}).values()


def package(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def content(cell: CellType) -> object:
    """Return what a variable of a closure holds; None where it has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


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
