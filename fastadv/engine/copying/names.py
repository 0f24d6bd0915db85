"""What functions read by the names of global variables."""

from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fastadv.engine.copying.reach import FOREIGN, package, reachable

# packages whose code reads no model of the caller's
KNOWN = FOREIGN | {"fastadv", "timm", "torchvision"}


def read_by(value: object) -> Iterator[Any]:
    """Yield the global variables that functions name, in modules of Python, too, to which `value` leads."""
    seen: dict[int, object] = {}  # held, so that no other object gets an id of theirs
    waiting = [value]
    while waiting:
        for part in reachable(waiting.pop()):
            if isinstance(part, FunctionType) and id(part) not in seen and package(part) not in KNOWN:
                seen[id(part)] = part
                read = [*_read(_names(part.__code__), part.__globals__)]
                waiting += read
                yield from read


def _read(names: set[str], variables: dict[str, Any]) -> Iterator[Any]:
    spaces = {id(variables): variables}
    waiting = [variables]
    while waiting:
        space = waiting.pop()
        for name in names & space.keys():
            value = space[name]
            if not isinstance(value, ModuleType):
                yield value
            elif value.__name__.partition(".")[0] not in KNOWN and id(vars(value)) not in spaces:
                spaces[id(vars(value))] = vars(value)
                waiting.append(vars(value))


def _names(code: CodeType) -> set[str]:
    inner = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return {*code.co_names}.union(*inner)
