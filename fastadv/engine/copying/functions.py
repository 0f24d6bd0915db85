"""Copies of functions and bound methods that hold modules; copy.deepcopy returns a function as it is."""

from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from fastadv._torch import COMPILED_FUNCTION
from fastadv.engine.copying.reach import content, holds_module


class Deferred:
    """A callable whose target is set after the model has been copied."""

    target: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)


def copy_functions(
    values: list[object], memo: dict[int, Any], copied: Callable[[Any], Any]
) -> Callable[[], None]:
    """Enter copies of functions that lead to a module into deepcopy's `memo`; return what fills them in."""
    # they share code, globals and all variables that lead to no module; a compiled one is copied as written
    functions = [each for each in values if isinstance(each, FunctionType) and holds_module(each)]
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
            if id(cell) not in cells and holds_module(content(cell)):
                cells[id(cell)] = cell, CellType()
            closure.append(cells[id(cell)][1] if id(cell) in cells else cell)
        own = FunctionType(function.__code__, function.__globals__, function.__name__, None, tuple(closure))
        memo[id(function)] = own
        plain.append((function, own))
    for method in values:
        # deepcopy gives a bound method the copy of its object, and leaves its function
        if isinstance(method, MethodType) and id(method.__func__) in memo:
            memo[id(method)] = Deferred()
            deferred.append((memo[id(method)], partial(memo[id(method.__func__)], method.__self__)))

    def with_modules(value: Any) -> Any:
        return copied(value) if holds_module(value) else value

    def fill() -> None:
        for theirs, own_cell in cells.values():
            own_cell.cell_contents = copied(theirs.cell_contents)
        for function, own in plain:
            own.__defaults__ = with_modules(function.__defaults__)
            own.__kwdefaults__ = with_modules(function.__kwdefaults__)
            vars(own).update({name: with_modules(value) for name, value in vars(function).items()})
        for wrapper, target in deferred:
            wrapper.target = copied(target)

    return fill
