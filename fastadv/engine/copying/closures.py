"""Copies of functions and bound methods that hold modules; copy.deepcopy returns a function as it is."""

import copy
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

from fastadv._torch import COMPILED_FUNCTION

# what modules hold most often, and what leads to no module
ATOMS = {type(None), bool, int, float, str, nn.Parameter}


class Deferred:
    """A callable whose target is set after the model has been copied."""

    target: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)


def inside(value: object) -> Iterable[Any]:
    """Return what `value` leads to itself: attributes of a module, or what a container or function holds."""
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
    if isinstance(value, Deferred):
        return [value.target]
    if isinstance(value, FunctionType):
        cells = [content(cell) for cell in value.__closure__ or ()]
        return [*cells, value.__defaults__, value.__kwdefaults__, vars(value)]
    return ()


def content(cell: CellType) -> object:
    """Return what a variable of a closure holds; None where it has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def reachable(
    value: object,
    inside: Callable[[object], Iterable[Any]] = inside,
    atoms: Collection[type] = ATOMS,
    but: Collection[int] = (),
) -> Iterator[object]:
    """Yield the objects that `value` leads to, itself included, each once; none of the types `atoms`."""
    seen: dict[int, object] = {}  # held, so that no other object gets an id of theirs
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if type(value) in atoms or id(value) in seen or id(value) in but:
            continue
        seen[id(value)] = value
        waiting += inside(value)
        yield value


def holds(value: object) -> bool:
    """Return whether `value` leads to a module."""
    return any(isinstance(part, nn.Module) for part in reachable(value))


def copy_functions(parts: list[object], memo: dict[int, Any]) -> Callable[[], None]:
    """Enter copies of the functions among `parts` that lead to a module into deepcopy's `memo`.

    They share with their originals the code, globals and all variables that lead to no module. A compiled
    function is copied as it was written. What is returned copies what they hold, and is to be called first.
    """
    functions = [part for part in parts if isinstance(part, FunctionType) and holds(part)]
    cells: dict[int, tuple[CellType, CellType]] = {}
    deferred: list[tuple[Deferred, Callable[..., Any]]] = []
    plain: list[tuple[FunctionType, FunctionType]] = []
    for function in functions:
        if COMPILED_FUNCTION in vars(function):
            memo[id(function)] = Deferred()
            deferred.append((memo[id(function)], vars(function)[COMPILED_FUNCTION]))
            continue
        closure = []
        for cell in function.__closure__ or ():
            if id(cell) not in cells and holds(content(cell)):
                cells[id(cell)] = cell, CellType()
            closure.append(cells[id(cell)][1] if id(cell) in cells else cell)
        own = FunctionType(function.__code__, function.__globals__, function.__name__, None, tuple(closure))
        memo[id(function)] = own
        plain.append((function, own))
    for method in parts:
        # deepcopy gives a bound method the copy of its object, and leaves its function
        if isinstance(method, MethodType) and id(method.__func__) in memo:
            memo[id(method)] = Deferred()
            deferred.append((memo[id(method)], partial(memo[id(method.__func__)], method.__self__)))

    def copied(value: Any) -> Any:
        return copy.deepcopy(value, memo) if holds(value) else value

    def fill() -> None:
        for theirs, own_cell in cells.values():
            own_cell.cell_contents = copy.deepcopy(theirs.cell_contents, memo)
        for function, own in plain:
            own.__defaults__ = copied(function.__defaults__)
            own.__kwdefaults__ = copied(function.__kwdefaults__)
            vars(own).update({name: copied(value) for name, value in vars(function).items()})
        for wrapper, target in deferred:
            wrapper.target = copy.deepcopy(target, memo)

    return fill
