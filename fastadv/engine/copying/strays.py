"""Whether code of a model might run modules that its copy does not hold, told by the names in that code."""

import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, GetSetDescriptorType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastadv.engine.copying.closures import reachable

# packages whose objects hold no model of the caller's, and others whose code reaches none
HARMLESS = {"torch", "numpy", "logging"}
CODE = "abc builtins collections contextlib copy dataclasses enum fastadv functools itertools math operator"
KNOWN = HARMLESS | {*CODE.split(), "random", "timm", "torchvision", "types", "typing", "warnings"}
# values that lead nowhere, and those that `reachable` looks into
PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, Enum, Tensor, BuiltinFunctionType),
    *(torch.Size, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator),
    *(dict, list, tuple, set, frozenset, MethodType, partial, ModuleType, GetSetDescriptorType),
)
QUICK = frozenset(PLAIN)
# ways to a global variable without its name
HIDDEN = {"globals", "eval", "exec", "__import__", "import_module"}


def may_stray(parts: Iterable[object]) -> bool:
    """Return whether code among `parts` might run a module that is not copied; False is a proof."""
    seen: dict[int, object] = {}  # held, so that no other object gets an id of theirs
    found = [(part, False) for part in parts]
    while found:
        part, named = found.pop()
        if type(part) in QUICK:
            continue
        if isinstance(part, nn.Module):
            if named or isinstance(part, fx.GraphModule):
                return True
            part = type(part)
        if id(part) in seen:
            continue
        seen[id(part)] = part
        read: Iterable[object] = ()
        if isinstance(part, type):
            own = [base for base in part.__mro__ if _package(base) not in KNOWN]
            read = [value for base in own for value in _members(base)]
        elif isinstance(part, FunctionType):
            read = () if _package(part) in KNOWN else list(_read(part.__code__, part.__globals__))
            if any(each is HIDDEN for each in read):
                return True
        elif not isinstance(part, PLAIN) and _package(type(part)) not in HARMLESS:
            return True
        found += [(each, True) for value in read for each in reachable(value)]
    return False


def read_by(value: object) -> Iterator[object]:
    """Yield what the functions that `value` leads to read by the names of global variables."""
    seen: dict[int, object] = {}  # held, so that no other object gets an id of theirs
    found = [value]
    while found:
        for part in reachable(found.pop()):
            if isinstance(part, FunctionType) and id(part) not in seen and _package(part) not in KNOWN:
                seen[id(part)] = part
                read = [*_read(part.__code__, part.__globals__)]
                found += read
                yield from read


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def _members(base: type) -> Iterator[object]:
    """Yield what code of a class may be, or read from it."""
    for name, value in vars(base).items():
        if isinstance(value, property):
            yield from (value.fget, value.fset)
        elif isinstance(value, staticmethod | classmethod):
            yield value.__func__
        elif name != "__annotations__":
            yield value


def _read(code: CodeType, variables: dict[str, Any]) -> Iterator[object]:
    """Yield the values of global variables that code names, by attribute in modules of Python; or HIDDEN."""
    names = _names(code)
    spaces, looked = [variables], {id(variables)}
    while spaces:
        space = spaces.pop()
        for name in names:
            value = space.get(name)
            if isinstance(value, ModuleType):
                if value.__name__.partition(".")[0] not in KNOWN and id(vars(value)) not in looked:
                    looked.add(id(vars(value)))
                    spaces.append(vars(value))
            elif name in space:
                yield value
    # an import of its own, or another way to what has no name here
    if any(name not in variables and (name in HIDDEN or _imports(name)) for name in names):
        yield HIDDEN


def _imports(name: str) -> bool:
    return name in sys.modules and name.partition(".")[0] not in KNOWN


def _names(code: CodeType) -> set[str]:
    inner = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return {*code.co_names}.union(*inner)
