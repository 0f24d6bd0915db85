"""What a run is, as JSON that is equal in every process, and how a folder tells its own run from another."""

import dataclasses
import json
import logging
import math
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._torch import COMPILED_MODULE
from fastadv.errors import InputError
from fastadv.runs.card import data_hash
from fastadv.runs.files import seal

FORMAT = {"format": 2}  # of the configurations of runs; another number where older ones cannot be compared
ANSWERS = "model's answer to the first samples"  # a probe in the configuration of a run
# the largest difference of a probe's values that another machine's rounding may cause, as a share of their
# spread
_ROUNDING = 1e-3
_HALF_ROUNDING = 5e-2
# code of these packages is known by its name
_LIBRARIES = {"fastadv", "numpy", "torch", "torchvision"} | sys.stdlib_module_names
NAMED = 3  # differences that an error tells
# Calls that fill a container, whose contents then change from call to call
_FILLS = {"add", "append", "extend", "insert", "setdefault", "update"}
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_is_torch_compile"}
_PLAIN = (bool, int, float, str, tuple)


def describe(value: Any, trained: nn.Module | None = None, identity: str | None = None) -> Any:
    """Describe `value` as JSON that is the same in every process; devices do not count."""
    # weights of a model in training do not count; an identity stands for the caller's code
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"identity: expected a text, got {identity!r}; name the version of your code")
    return _Description(trained, by_name=identity is not None).of(value)


def describe_model(model: nn.Module, identity: str | None = None) -> str:
    """Describe a model in training, but for its weights: its parts, and the shapes and flags of its state."""
    # torch.compile wraps the model
    inner = getattr(model, COMPILED_MODULE, model)
    trained = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    state = [(name, tuple(t.shape), str(t.dtype), name in trained) for name, t in inner.state_dict().items()]
    about = _Description(model, by_name=identity is not None).model(inner)
    return f"{type(inner).__qualname__} {_hash([about, state])}"


def unsaved(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers of a model that its state dict leaves out, by name."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


class _Description:
    """Describes values that may refer to each other. An object that was met before is named by its number."""

    def __init__(self, trained: nn.Module | None, by_name: bool) -> None:
        # The names, by id; the objects are held, so that no id returns
        models = [] if trained is None else [trained, getattr(trained, COMPILED_MODULE, trained)]
        self._seen: dict[int, tuple[str, Any]] = {id(model): ("the model", model) for model in models}
        self._by_name, self._trained = by_name, models[-1] if models else None

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
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
        if id(value) in self._seen:
            return self._seen[id(value)][0]
        self._seen[id(value)] = f"{_name(value)} again, number {len(self._seen)}", value
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if isinstance(value, FunctionType | type):
            return self._coded(value)
        if isinstance(value, nn.Module):
            model = getattr(value, COMPILED_MODULE, value)
            return [
                f"{type(model).__qualname__} {_hash(self.model(model))}",
                data_hash(*model.state_dict().values()),
            ]
        if callable(describes := getattr(value, "describe", None)):
            about = self.of(describes())
            if _is_ours(describes) and not _is_ours(type(value)):  # a base class, which knows its own fields
                about = [self._coded(type(value)), about, self.of(_held(value))]
            # a frozen model tells its options alone
            return [about, self.of(value.model)] if hasattr(value, "model") else about
        if isinstance(value, partial):
            arguments = {"args": self.of(value.args), "keywords": self.of(value.keywords)}
            return {"function": self.of(value.func), **arguments}
        if hasattr(value, "__wrapped__"):  # a cache around a function
            return [_name(type(value)), self.of(value.__wrapped__)]
        if hasattr(value, "__qualname__") or isinstance(value, ModuleType | logging.Logger | torch.device):
            return _name(value)
        if not (state := _attributes(value)):
            text = repr(value)
            return [self._coded(type(value)), "" if " at 0x" in text else text]
        return {"class" if "name" in state else "name": self._coded(type(value)), **self.of(state)}

    def model(self, model: nn.Module) -> list[Any]:
        """Describe a model without its weights: classes, functions, plain attributes, further buffers."""
        parts = list(model.modules())
        attributes = [
            pair for part in parts for pair in vars(part).items() if pair[0] not in _OF_EVERY_MODULE
        ]
        held = [pair for pair in attributes if callable(pair[1]) or isinstance(pair[1], _PLAIN)]
        classes = {self._coded(type(part)): None for part in parts}
        trained = self._trained is model  # whose buffers a checkpoint holds
        buffers = [] if trained else [data_hash(buffer) for buffer in unsaved(model).values()]
        printed = re.sub(r" at 0x[0-9a-f]+", "", repr(model))  # the parts and their options
        return [printed, [*classes], self.of(held), buffers]

    def _coded(self, value: Any) -> str:
        """Return the name of a function or class, with a hash of its code where it is the caller's own."""
        if self._by_name and not _is_ours(value):
            return _name(value)
        if isinstance(value, FunctionType):
            cells = [c.cell_contents for c in value.__closure__ or () if c != CellType()]
            filled = (list, dict, set) if _FILLS & set(value.__code__.co_names) else ()
            held = [type(c).__name__ if isinstance(c, filled) else self.of(c) for c in cells]
            if _is_ours(value):
                return f"{_name(value)} {_hash(held)}" if held else _name(value)
            defaults = self.of([value.__defaults__, value.__kwdefaults__])
            return f"{_name(value)} {_hash([_code(value.__code__), defaults, held])}"
        if _is_ours(value):
            return str(value.__qualname__)
        members = {name: _unwrapped(member) for name, member in vars(value).items()}
        coded = {
            name: self.of(member)
            for name, member in members.items()
            if isinstance(member, FunctionType) or not name.startswith(("__", "_abc_"))
        }
        return f"{_name(value)} {_hash([coded, [self._coded(base) for base in value.__bases__]])}"


def _is_ours(value: Any) -> bool:
    """Return whether a function or class is of this library, or of those that are known by their names."""
    return str(getattr(value, "__module__", None)).partition(".")[0] in _LIBRARIES


def _unwrapped(member: Any) -> Any:
    """Return the function of a static or class method, or of a property."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, cached_property) else member


def _code(code: CodeType) -> list[Any]:
    """Return what a function does, as its compiled code."""
    constants = [_code(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    return [code.co_code.hex(), *code.co_names, constants]


def _constant(value: Any) -> str:
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _attributes(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, or what another object holds."""
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return _held(value)


def _held(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, without those it computes once when asked."""
    kind = type(value)
    slots = [] if _is_ours(kind) else [s for base in kind.__mro__ for s in vars(base).get("__slots__", ())]
    held = {s: getattr(value, s) for s in slots if hasattr(value, s)} | getattr(value, "__dict__", {})
    return {k: v for k, v in held.items() if not isinstance(getattr(kind, k, None), cached_property)}


def _name(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(kind, '__module__', None)}.{kind.__qualname__}"


def _hash(parts: Any) -> str:
    return seal(parts)[:16]


def probe(outputs: Tensor, again: Tensor, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return a number for each row of outputs [B, ...], to tell functions apart; a random one has none."""
    flat = outputs.detach().double().cpu().flatten(1)
    finite = flat.isfinite().all(1)
    spread = float(flat[finite].square().mean().sqrt()) if finite.any() else 0.0
    within = spread * (_HALF_ROUNDING if dtype in (torch.float16, torch.bfloat16) else _ROUNDING)
    twice = again.detach().double().cpu().flatten(1)
    if twice.shape != flat.shape or not torch.allclose(flat, twice, rtol=0, atol=within, equal_nan=True):
        return {"values": "random", "within": 0.0}
    # directions fixed by a formula, so that no generator is involved
    direction = torch.cos(torch.arange(1.0, 1.0 + flat.shape[1], dtype=torch.float64, device="cpu").square())
    values = flat.nan_to_num(0, 0, 0) @ direction / direction.norm()
    return {
        "values": [float(f"{v:.6g}") if ok else None for v, ok in zip(values, finite, strict=True)],
        "within": float(f"{within:.3g}"),
    }


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` as it comes back from JSON: to compare what was written with what is asked for."""
    result: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
    return result


def check_same(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise InputError, naming what differs, unless the file `path` of the run `stored` is of `config`."""
    if stored.get("format") != config.get("format"):
        raise InputError(
            f"{path}: expected a run that this version began, got one of another version; finish it with "
            "that version, or choose another folder"
        )
    names: dict[str, str] = {}
    for where, there, here in _different((), dict(stored), plain(config)):
        keys = [key for key in where if key != "keywords"]  # of a partial: they are named by themselves
        if keys[-1:] == ["seed"] and "threat" not in keys:  # one for all that hold it
            keys, there, here = ["seed"], *("none" if seed is None else seed for seed in (there, here))
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
        lacks = name == "seed" and "none" in (there, here)
        both = f": {here} here, {there} there" if lacks else f" ({there!s:.60} there, {here!s:.60} here)"
        names.setdefault(name, name + both)
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        named = ", another ".join([*names.values()][:NAMED]) + more
        raise InputError(
            f"{path}: expected the run that wrote it, got one with another {named}; resume with the same "
            "arguments, or choose another folder"
        )


def agree(stored: Any, now: Any) -> bool:
    """Return whether two values are equal, and probes in them within rounding, as far as both have rows."""
    return next(_different((), stored, now), None) is None


def _different(where: tuple[Any, ...], stored: Any, now: Any) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield what differs, with its place and both values; a list of plain values differs as a whole."""
    alike = isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now)
    if isinstance(stored, dict) and isinstance(now, dict):
        if stored.keys() == now.keys() == {"values", "within"}:
            if not _near(stored, now):
                yield where, stored["values"], now["values"]
            return
        for key in sorted(stored.keys() | now.keys()):
            yield from _different((*where, key), stored.get(key), now.get(key))
    elif alike and any(isinstance(value, dict | list) for value in now):
        for place, (old, new) in enumerate(zip(stored, now, strict=True)):
            yield from _different((*where, place), old, new)
    elif stored != now:
        yield where, stored, now


def _near(stored: dict[str, Any], now: dict[str, Any]) -> bool:
    old, new, within = stored["values"], now["values"], max(stored["within"], now["within"])
    if not (isinstance(old, list) and isinstance(new, list)):
        return bool(old == new)
    both = zip(old, new, strict=False)
    return all(a == b or (None not in (a, b) and abs(a - b) <= within) for a, b in both)
