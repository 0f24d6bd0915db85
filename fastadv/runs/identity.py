"""What a run is, as JSON that is equal in every process, and how a folder tells its own run from another."""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, MutableSet
from functools import cached_property, partial
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._torch import COMPILED_MODULE
from fastadv.errors import InputError
from fastadv.hashes import LEAVES, data_hash, leaf, seal

FORMAT = {"format": 2}  # of the configurations of runs; another number where older ones cannot be compared
ANSWERS = "model's answer to the first samples"  # a probe in the configuration of a run
# code of these packages is known by its name
_LIBRARIES = {"fastadv", "numpy", "torch", "torchvision"} | sys.stdlib_module_names
NAMED = 3  # differences that an error tells
BY_NAME = ""  # an identity, for code that is compared by its name alone
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_is_torch_compile"}
_CHANGING = (MutableMapping, MutableSequence, MutableSet)


def describe(value: Any, trained: nn.Module | None = None, identity: str | None = None) -> Any:
    """Describe `value` as JSON that is the same in every process; devices do not count.

    Weights of a model in training do not count either. An identity stands for the caller's code; without it
    code is known by name, source text and the values bound to it, and refused where these do not tell.
    """
    if identity is not None and not isinstance(identity, str):
        raise InputError(f"identity: expected a text, got {identity!r}; name the version of your code")
    return _Description(trained, by_name=identity is not None).of(value)


def describe_model(model: nn.Module) -> str:
    """Describe a model in training, but for its weights: its parts, and the shapes and flags of its state."""
    inner = getattr(model, COMPILED_MODULE, model)
    trained = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    state = [(name, tuple(t.shape), str(t.dtype), name in trained) for name, t in inner.state_dict().items()]
    parts = _Description(model, by_name=True).parts(inner)
    return f"{type(inner).__qualname__} {_hash([parts, state])}"


def unsaved(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers of a model that its state dict leaves out, by name."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


class _Description:
    def __init__(self, trained: nn.Module | None, by_name: bool) -> None:
        self._trained = None if trained is None else getattr(trained, COMPILED_MODULE, trained)
        self._by_name = by_name
        self._within: list[Any] = []  # the objects of which the value is a part

    def of(self, value: Any) -> Any:
        if isinstance(value, LEAVES):
            return leaf(value)
        if isinstance(value, np.ndarray | np.generic):
            return [str(value.dtype), self.of(value.tolist())]
        if isinstance(value, Mapping):
            return {str(key): self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        if isinstance(value, set | frozenset):
            return sorted((self.of(item) for item in value), key=json.dumps)
        if any(value is whole for whole in self._within):
            return f"{_name(value)} again"
        self._within.append(value)
        about = self._object(value)
        self._within.pop()
        return about

    def _object(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, nn.Module):
            model = getattr(value, COMPILED_MODULE, value)
            if model is self._trained:
                return "the model"
            parts = f"{type(model).__qualname__} {_hash(self.parts(model))}"
            return [parts, data_hash(*model.state_dict().values())]
        if isinstance(value, FunctionType | type):
            return self._code(value)
        if isinstance(value, MethodType):
            return [self.of(value.__func__), self.of(value.__self__)]
        describes = getattr(value, "describe", None)
        if callable(describes) and (_is_ours(kind) or not _is_ours(describes)):
            # a frozen model tells its options alone
            about = self.of(describes())
            return [about, self.of(value.model)] if hasattr(value, "model") else about
        if isinstance(value, partial):
            arguments = {"args": self.of(value.args), "keywords": self.of(value.keywords)}
            return {"function": self.of(value.func), **arguments}
        is_named = _is_ours(value) and hasattr(value, "__qualname__")  # as a function in C
        if is_named or isinstance(value, ModuleType | torch.device):
            return _name(value)
        slots = [s for base in kind.__mro__ if not _is_ours(base) for s in vars(base).get("__slots__", ())]
        held = {s: getattr(value, s) for s in slots if hasattr(value, s)} | getattr(value, "__dict__", {})
        held = {k: v for k, v in held.items() if not isinstance(getattr(kind, k, None), cached_property)}
        if held:
            return {"class" if "name" in held else "name": self._code(kind), **self.of(held)}
        text = repr(value)
        return [self._code(kind), "" if " at 0x" in text else text]

    def parts(self, model: nn.Module) -> list[Any]:
        """Describe a model without its weights: classes and options of its parts, further buffers."""
        parts = []
        for name, part in model.named_modules():
            options = {key: value for key, value in vars(part).items() if key not in _OF_EVERY_MODULE}
            plain = {key: value for key, value in options.items() if callable(value) or _is_plain(value)}
            parts.append([name, self._code(type(part)), self.of(plain)])
        # a checkpoint holds those of the model in training
        buffers = {} if model is self._trained else unsaved(model)
        return [parts, [data_hash(buffer) for buffer in buffers.values()]]

    def _code(self, value: Any) -> str:
        """Return the name of a function or class, with a hash of what it holds and the caller's source."""
        name, held = _name(value), _held(value)
        if _is_ours(value):
            return f"{name} {_hash(self.of(held))}" if held else name
        if self._by_name:
            return name
        try:
            source = inspect.getsource(value)
        except (OSError, TypeError) as error:
            raise _unknown(name, "its source cannot be read") from error
        if value.__name__ == "<lambda>":
            raise _unknown(name, "a lambda")
        if isinstance(value, type) and "<locals>" in name:
            raise _unknown(name, "a class in a function")
        if not _is_fixed(held):
            raise _unknown(name, "it holds objects")
        bases = [self._code(base) for base in getattr(value, "__bases__", ())]
        return f"{name} {_hash([source, self.of(held), bases])}"


def _unknown(name: str, why: str) -> InputError:
    return InputError(
        f"identity: expected a text, as a folder does not know {name} again, got None; pass "
        f"identity='1', and another when your code changes ({why})"
    )


def _held(value: Any) -> tuple[Any, ...]:
    """Return the values that a function is bound to."""
    if not isinstance(value, FunctionType):
        return ()
    cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
    if _is_ours(value):
        return tuple(cells)
    named = (value.__kwdefaults__ or {}) | vars(value)
    return (*cells, *(value.__defaults__ or ()), *named.items())


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple)


def _is_fixed(value: Any) -> bool:
    """Return whether what a function holds is a value, which does not change from call to call."""
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return _is_ours(type(value)) and not isinstance(value, _CHANGING)


def _is_ours(value: Any) -> bool:
    """Return whether a function or class is of this library, or of those that are known by their names."""
    return str(getattr(value, "__module__", None)).partition(".")[0] in _LIBRARIES


def _name(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, type) and _is_ours(value):
        return value.__qualname__
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(kind, '__module__', None)}.{kind.__qualname__}"


def _hash(parts: Any) -> str:
    return seal(parts)[:16]


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
    names = list[str]()
    for where, there, here in _different((), dict(stored), plain(config)):
        keys = [key for key in where if key != "keywords"]  # of a partial: they are named by themselves
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
        names.append(f"{name} ({there!s:.60} there, {here!s:.60} here)")
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        named = ", another ".join(names[:NAMED]) + more
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
    return all(abs(a - b) <= within for a, b in zip(old, new, strict=False))
