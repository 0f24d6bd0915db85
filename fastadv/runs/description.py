"""What a run is made of, as JSON, equal in every process: values, weights, and the source of functions."""

import dataclasses
import hashlib
import inspect
import json
import logging
import math
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._torch import COMPILED_MODULE
from fastadv.errors import InputError
from fastadv.runs.card import data_hash

# code of these packages is known by its name, all other code by its source
_LIBRARIES = {"builtins", "fastadv", "numpy", "torch", "torchvision"} | sys.stdlib_module_names
# calls that fill a container: its contents then change from call to call
_FILLING = {"add", "append", "extend", "insert", "setdefault", "update"}
# what every module holds and `describe` sees otherwise
_NO_PART = frozenset(vars(nn.Module()))
unread = re.compile(r"\(no source of ([^)]+)\)").search  # of a description: what it lacks


def describe(value: Any, trained: nn.Module | None = None, identity: str | None = None) -> Any:
    """Describe `value` as JSON that is the same in every process; devices and globals do not count."""
    # weights in training do not count; an identity stands for the caller's code, which then counts by name
    return _Description([] if trained is None else [trained], identity).of(value)


def describe_model(model: nn.Module, identity: str | None = None) -> str:
    """Describe a model in training, but for its weights: its parts, and the shapes and flags of its state."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = [(name, tuple(t.shape), str(t.dtype), name in trained) for name, t in model.state_dict().items()]
    # a model in eval mode is trained in train mode, with all its parts
    modes = [module.training or not model.training for module in model.modules()]
    # torch.compile wraps the model in state of its own, which differs from process to process
    inner = getattr(model, COMPILED_MODULE, model)
    return f"{_Description([model, inner], identity).module(inner)} {_hash([state, modes])}"


def check_described(config: Mapping[str, Any]) -> None:
    """Raise InputError where a description in `config` lacks the source of a function or class."""
    lacking = unread(json.dumps(config))
    if lacking is not None:
        raise InputError(
            f"identity: expected a text that stands for the code of this run, as the source of {lacking[1]} "
            "cannot be read, got None; pass identity='...', and another text whenever the code changes"
        )


class _Description:
    """Describes values that may refer to each other. An object that was met before is named by its number."""

    def __init__(self, trained: list[nn.Module], identity: str | None) -> None:
        # by id; the objects are held, so that no id returns
        self._seen: dict[int, tuple[str, Any]] = {id(part): ("the model", part) for part in trained}
        if identity is not None and not isinstance(identity, str):
            raise InputError(f"identity: expected a text, got {identity!r}; name the version of your code")
        self._by_name = identity is not None

    def of(self, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            return self.of(value.item()) if value.ndim == 0 else data_hash(value)
        if isinstance(value, np.ndarray | np.generic):
            return [str(value.dtype), self.of(value.tolist())]
        if isinstance(value, Mapping):
            return {str(key): self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        if isinstance(value, set | frozenset):
            return sorted((self.of(item) for item in value), key=json.dumps)
        if isinstance(value, MethodType):
            return [self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, ModuleType):
            return value.__name__
        if id(value) in self._seen:
            return self._seen[id(value)][0]
        self._seen[id(value)] = f"{_name(value)} again, number {len(self._seen)}", value
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return self._coded(value, self._function)
        if isinstance(value, type):
            return _name(value) if _of_library(value) else self._coded(value, self._class)
        if isinstance(value, nn.Module):
            return [self.module(value), data_hash(*value.state_dict().values())]
        if callable(own := getattr(value, "describe", None)):
            told = self.of(own())
            if _of_library(own) and not _of_library(type(value)):  # a base class, which knows its own fields
                told = [self.of(type(value)), told, self.of(_without_cached(vars(value), type(value)))]
            # a frozen model tells its options alone
            return [told, self.of(value.model)] if hasattr(value, "model") else told
        if isinstance(value, partial):
            given = {"args": self.of(value.args), "keywords": self.of(value.keywords)}
            return {"function": self.of(value.func), **given}
        if hasattr(value, "__wrapped__"):  # a cache around a function
            return [_name(type(value)), self.of(value.__wrapped__)]
        if hasattr(value, "__qualname__") or isinstance(value, logging.Logger | torch.device):
            return _name(value)
        state = _state(value)
        if not state:
            text = repr(value)
            return [self.of(type(value)), "" if " at 0x" in text else text]
        kind = type(value).__qualname__ if _of_library(type(value)) else self.of(type(value))
        return {"class" if "name" in state else "name": kind, **self.of(state)}

    def _coded(self, value: Any, parts: Callable[[Any], list[Any]]) -> str:
        by_name = self._by_name and not _of_library(value)
        return _name(value) if by_name else f"{_name(value)} {_hash(parts(value))}"

    def module(self, model: nn.Module) -> str:
        """Describe a model without its state dict: the classes, options, hooks and constants of its parts."""
        state = model.state_dict()
        parts = {
            name: [
                self.of(type(module)),
                {k: self.of(v) for k, v in vars(module).items() if k not in _NO_PART},
                [self.of(hook) for hook in module._forward_pre_hooks.values()],
                [self.of(hook) for hook in module._forward_hooks.values()],
            ]
            for name, module in model.named_modules()
        }
        rest = {name: self.of(buffer) for name, buffer in model.named_buffers() if name not in state}
        return f"{type(model).__qualname__} {_hash([parts, rest])}"

    def _function(self, function: FunctionType) -> list[Any]:
        """Return the source of a function, its defaults, and what it encloses."""
        # the contents of a container that the function fills change from call to call
        filled = (list, dict, set) if _FILLING & set(function.__code__.co_names) else ()
        held = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
        cells = [type(each).__name__ if isinstance(each, filled) else self.of(each) for each in held]
        if _of_library(function):
            return cells
        code = _text_of(function) or f"(no source of {_name(function)}) {_compiled(function.__code__)}"
        return [code, self.of(function.__defaults__), self.of(function.__kwdefaults__), cells]

    def _class(self, value: type) -> list[Any]:
        """Describe the bases, functions and constants of a class."""
        members: dict[str, Any] = {}
        for name, member in vars(value).items():
            if isinstance(member, staticmethod | classmethod):
                member = member.__func__
            elif isinstance(member, property | cached_property):
                member = member.fget if isinstance(member, property) else member.func
            # what a dataclass is given has no source, and its repr wraps such a function
            special = name.startswith(("__", "_abc_")) and name != "__call__"
            coded = isinstance(member, FunctionType) and _text_of(member) is not None and name != "__repr__"
            if coded or not special:
                members[name] = self.of(member)
        return [[self.of(base) for base in value.__bases__], members]


def _of_library(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).partition(".")[0] in _LIBRARIES


def _text_of(function: FunctionType) -> str | None:
    """Return the source of a function, of a lambda the lines it stands in; None where it cannot be read."""
    # of its code, because `inspect` would go through a decorated function to the one inside
    code = function.__code__
    try:
        if code.co_name != "<lambda>":
            return textwrap.dedent(inspect.getsource(code))
        lines = inspect.findsource(code)[0]
    except (OSError, TypeError, SyntaxError):
        return None
    last, column = max((end or 0, column or 0) for _, end, _, column in code.co_positions())
    # two of one line differ by where they end
    return "".join([*lines[code.co_firstlineno - 1 : last], str(column)])


def _compiled(code: CodeType) -> list[Any]:
    """Return what a function does where no source tells it."""
    inner = [_compiled(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), *code.co_names, inner]


def _state(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, without those it computes once when asked."""
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    kind = type(value)
    slots = [] if _of_library(kind) else [s for base in kind.__mro__ for s in vars(base).get("__slots__", ())]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    held |= getattr(value, "__dict__", {})
    return _without_cached(held, kind)


def _without_cached(held: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return attributes without those that a class computes when asked."""
    return {k: v for k, v in held.items() if not isinstance(getattr(kind, k, None), cached_property)}


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def _hash(parts: Any) -> str:
    """Return the hash of a description, or what it lacks."""
    text = json.dumps(parts, sort_keys=True)
    lacking = unread(text)
    told = hashlib.sha256(text.encode()).hexdigest()[:16]
    return told if lacking is None else f"{lacking[0]} {told}"
