"""What a run is made of, as JSON: equal for equal things in every process, and different for all others."""

import dataclasses
import dis
import hashlib
import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv.runs.card import data_hash

# code of these packages is known by its name, all other code by what it does
_LIBRARIES = {"builtins", "fastadv", "numpy", "torch", "torchvision"} | sys.stdlib_module_names
# calls that fill a container: its contents then change from call to call
_FILLING = {"add", "append", "extend", "insert", "setdefault", "update"}
# what every module holds and `describe` sees otherwise, and the samples that parts of a model have passed
_NO_PART = frozenset(vars(nn.Module())) | {"gradient_probes"}
Seen = dict[int, tuple[str, Any]]  # the objects described so far, by their id; kept, so that no id returns


def describe(value: Any, trained: nn.Module | None = None) -> Any:
    """`value` as JSON that is the same in every process.

    Tensors by their hash, numbers that JSON lacks as text, functions and classes by name, code and whatever
    they refer to, dataclasses by their fields, modules by their parts and weights, other objects by their own
    `describe` or by class and attributes. Devices do not count.

    trained: the model in training, which `value` may refer to; its weights, too, do not count.
    """
    return _describe(value, {} if trained is None else {id(trained): ("the model", trained)})


def _describe(value: Any, seen: Seen) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return _describe(value.item(), seen) if value.ndim == 0 else data_hash(value)
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), _describe(value.tolist(), seen)]
    if isinstance(value, Mapping):
        return {str(key): _describe(item, seen) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item, seen) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_describe(item, seen) for item in value), key=json.dumps)
    if isinstance(value, MethodType):
        return [_describe(value.__func__, seen), _describe(value.__self__, seen)]
    if isinstance(value, ModuleType):
        return value.__name__
    if id(value) in seen:
        return seen[id(value)][0]
    seen[id(value)] = f"{_name(value)} again, number {len(seen)}", value
    return _describe_object(value, seen)


def _describe_object(value: Any, seen: Seen) -> Any:
    if isinstance(value, FunctionType):
        return f"{_name(value)} {_hash(_function(value, seen))}"
    if isinstance(value, type):
        return _name(value) if _of_library(value) else f"{_name(value)} {_hash(_class(value, seen))}"
    if isinstance(value, nn.Module):
        return [_module(value, seen), data_hash(*value.state_dict().values())]
    if callable(own := getattr(value, "describe", None)):
        told = _describe(own(), seen)
        # a frozen model tells its options alone
        return [told, _describe(value.model, seen)] if hasattr(value, "model") else told
    if isinstance(value, partial):
        given = {"args": _describe(value.args, seen), "keywords": _describe(value.keywords, seen)}
        return {"function": _describe(value.func, seen), **given}
    if hasattr(value, "__wrapped__"):  # a cache around a function
        return [_name(type(value)), _describe(value.__wrapped__, seen)]
    if hasattr(value, "__qualname__") or isinstance(value, logging.Logger | torch.device):
        return _name(value)
    state = _state(value)
    if not state:
        text = repr(value)
        return [_describe(type(value), seen), "" if " at 0x" in text else text]
    kind = type(value).__qualname__ if _of_library(type(value)) else _describe(type(value), seen)
    return {"class" if "name" in state else "name": kind, **_describe(state, seen)}


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object, without those it computes once when asked."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    kind = type(value)
    slots = [] if _of_library(kind) else [s for base in kind.__mro__ for s in vars(base).get("__slots__", ())]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    held |= getattr(value, "__dict__", {})
    return {k: v for k, v in held.items() if not isinstance(getattr(kind, k, None), cached_property)}


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def _of_library(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).partition(".")[0] in _LIBRARIES


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _function(function: FunctionType, seen: Seen) -> list[Any]:
    """What a function does, as far as it shows: its code, its defaults, and the values that it refers to."""
    used, read = _names(function.__code__)

    def constant(value: Any) -> Any:
        filled = isinstance(value, list | dict | set) and used & _FILLING
        return type(value).__name__ if filled else _describe(value, seen)

    def content(cell: Any) -> Any:
        try:
            return constant(cell.cell_contents)
        except ValueError:  # not yet filled
            return None

    cells = [content(cell) for cell in function.__closure__ or ()]
    if _of_library(function):
        return cells
    known = {name: function.__globals__[name] for name in read & function.__globals__.keys()}
    for name, value in list(known.items()):
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in _LIBRARIES:
            known |= {f"{name}.{part}": vars(value)[part] for part in used & vars(value).keys()}
    defaults = [constant(value) for value in function.__defaults__ or ()]
    named = {name: constant(value) for name, value in (function.__kwdefaults__ or {}).items()}
    return [_code(function.__code__), defaults, named, cells, {k: constant(known[k]) for k in sorted(known)}]


def _code(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), code.co_names, code.co_varnames, [_literal(each) for each in code.co_consts]]


def _literal(value: Any) -> Any:
    """A constant of a function's code, as text; the order of a set differs between processes."""
    if isinstance(value, CodeType):
        return _code(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """All names in a function's code, and those of them that it reads from its module."""
    used = set(code.co_names)
    read = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            inner = _names(each)
            used, read = used | inner[0], read | inner[1]
    return used, read


def _class(value: type, seen: Seen) -> list[Any]:
    """The bases, functions and constants of a class; not what its functions assign, such as a counter."""
    members: dict[str, Any] = {}
    functions = [each for each in vars(value).values() if isinstance(each, FunctionType)]
    assigned = {
        each.argval for f in functions for each in dis.get_instructions(f) if each.opname == "STORE_ATTR"
    }
    for name, member in vars(value).items():
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        elif isinstance(member, property | cached_property):
            member = member.fget if isinstance(member, property) else member.func
        constant = not name.startswith(("__", "_abc_")) and name not in assigned
        if isinstance(member, FunctionType) or constant:
            members[name] = _describe(member, seen)
    return [[_describe(base, seen) for base in value.__bases__], members]


def _module(model: nn.Module, seen: Seen) -> str:
    """The parts of a model: classes, options, hooks and constants, but not what its state dict holds."""
    state = model.state_dict()
    parts = {
        name: [
            _describe(type(module), seen),
            {k: _describe(v, seen) for k, v in vars(module).items() if k not in _NO_PART},
            [_describe(hook, seen) for hook in module._forward_pre_hooks.values()],
            [_describe(hook, seen) for hook in module._forward_hooks.values()],
        ]
        for name, module in model.named_modules()
    }
    rest = {name: _describe(buffer, seen) for name, buffer in model.named_buffers() if name not in state}
    return f"{type(model).__qualname__} {_hash([parts, rest])}"


def describe_model(model: nn.Module) -> str:
    """What a model in training is, but for its weights: its parts, and the shapes and flags of its state."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = [(name, tuple(t.shape), str(t.dtype), name in trained) for name, t in model.state_dict().items()]
    # a model in eval mode is trained in train mode, with all its parts
    modes = [module.training or not model.training for module in model.modules()]
    # torch.compile wraps the model in state of its own, which differs from process to process
    inner = getattr(model, "_orig_mod", model)
    seen: Seen = {id(part): ("the model", part) for part in (model, inner)}
    return f"{_module(inner, seen)} {_hash([state, modes])}"


def describe_data(dataset: Any) -> str:
    """Length and hash of the data: of all tensors, arrays and lists of numbers that the data set holds."""
    known = getattr(dataset, "data_hash", None)
    if isinstance(known, str):
        return f"{len(dataset)} {known}"
    held = vars(dataset).values() if hasattr(dataset, "__dict__") else dataset
    return f"{len(dataset)} {data_hash(*_held(held))}"


def _held(values: Iterable[Any]) -> Iterator[Tensor]:
    """The numbers in `values`, as tensors, and those in the lists and data sets among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            yield torch.from_numpy(np.ascontiguousarray(value))
        elif isinstance(value, list | tuple | range) and all(isinstance(each, int | float) for each in value):
            yield torch.tensor(value)
        elif isinstance(value, list | tuple):
            yield from _held(value)
        elif isinstance(value, Dataset):
            yield from _held(vars(value).values())


def describe_set(dataset: Any) -> Any:
    """What the card of a model says of the images it was trained on."""
    own = getattr(dataset, "describe", None)
    return own() if callable(own) else describe_data(dataset)
