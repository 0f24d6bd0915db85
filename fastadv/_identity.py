"""What a run is, as JSON: how a folder recognizes its own run and refuses another."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._card import data_hash
from fastadv.errors import InputError

# functions of these packages are known by their names, all others by what they do
_LIBRARIES = {"fastadv", "math", "numpy", "torch", "torchvision"}
# largest difference of a probe's values that another machine's rounding may cause, as a share of their spread
_ROUNDING = 1e-3
_HALF_ROUNDING = 5e-2


def describe(value: Any) -> Any:
    """`value` as JSON that is the same in every process.

    Tensors by their hash, numbers that JSON lacks as text, functions by name, code, defaults and the
    constants they use, dataclasses by their fields, other objects by their own `describe` or by type and
    public attributes.
    """
    return _describe(value, frozenset())


def _describe(value: Any, inside: frozenset[int]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return _describe(value.item(), inside) if value.ndim == 0 else data_hash(value)
    if isinstance(value, nn.Module):
        return describe_model(value)
    own = getattr(value, "describe", None)
    if callable(own) and not isinstance(value, type):
        return _describe(own(), inside)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _describe(getattr(value, f.name), inside) for f in dataclasses.fields(value)}
        return {"name": type(value).__name__, **fields}
    if isinstance(value, functools.partial):
        given = {str(key): _describe(item, inside) for key, item in value.keywords.items()}
        return {"name": _describe(value.func, inside), "args": _describe(value.args, inside), **given}
    if isinstance(value, Mapping):
        return {str(key): _describe(item, inside) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item, inside) for item in value]
    if isinstance(value, MethodType):
        return [_describe(value.__func__, inside), _describe(value.__self__, inside)]
    if isinstance(value, FunctionType) and value.__module__.partition(".")[0] not in _LIBRARIES:
        return _name(value) + ("" if id(value) in inside else f" {_code_hash(value, inside | {id(value)})}")
    if isinstance(value, ModuleType):
        return value.__name__
    if hasattr(value, "__qualname__") or not hasattr(value, "__dict__") or id(value) in inside:
        return _name(value)
    known = {
        name: _describe(each, inside | {id(value)}) for name, each in vars(value).items() if name[0] != "_"
    }
    return {"name": _name(value), **known}


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _code_hash(function: FunctionType, inside: frozenset[int]) -> str:
    """Hash of what a function does, as far as it shows: its code, and the constants and functions in it."""

    def constant(value: Any) -> Any:
        # a list that a function fills changes from call to call: it does not tell two functions apart
        return type(value).__name__ if isinstance(value, list | dict | set) else _describe(value, inside)

    def content(cell: Any) -> Any:
        try:
            return constant(cell.cell_contents)
        except ValueError:  # not yet filled
            return None

    names = sorted(set(_names(function.__code__)) & function.__globals__.keys())
    parts = [
        _code(function.__code__),
        [constant(value) for value in function.__defaults__ or ()],
        {name: constant(value) for name, value in (function.__kwdefaults__ or {}).items()},
        [content(cell) for cell in function.__closure__ or ()],
        {name: constant(function.__globals__[name]) for name in names},
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _code(code: CodeType) -> list[Any]:
    constants = [_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), code.co_names, code.co_varnames, constants]


def _names(code: CodeType) -> list[str]:
    inner = [name for each in code.co_consts if isinstance(each, CodeType) for name in _names(each)]
    return [*code.co_names, *inner]


def describe_model(model: nn.Module) -> str:
    """Class, and a hash of the names, shapes, dtypes and gradient flags of the state; not of the weights."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = [(name, tuple(t.shape), str(t.dtype), name in trained) for name, t in model.state_dict().items()]
    return f"{type(model).__qualname__} {hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"


def describe_data(dataset: Any) -> str:
    """Length and hash of the data; of its labels alone, or of none, where the data set gives no more."""
    known = getattr(dataset, "data_hash", None)
    if isinstance(known, str):
        return f"{len(dataset)} {known}"
    held = [getattr(dataset, name, None) for name in ("x", "y", "targets")]
    tensors = [torch.as_tensor(item) for item in held if isinstance(item, Tensor | list | np.ndarray)]
    return f"{len(dataset)} {data_hash(*tensors)}"


def describe_set(dataset: Any) -> Any:
    """What the card of a model says of the images it was trained on."""
    own = getattr(dataset, "describe", None)
    return own() if callable(own) else describe_data(dataset)


def probe(outputs: Tensor, again: Tensor, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """A few numbers that tell functions apart by their outputs [B, ...] on the same inputs.

    Two probes are compared within the rounding that another machine may add (see `check_same`).

    again: the outputs of a second call. A random function, whose outputs differ, has no probe.
    dtype: in which the function computes; float32 unless given.
    """
    flat = outputs.detach().double().cpu().flatten(1)
    finite = flat.isfinite().all(1)
    spread = float(flat[finite].square().mean().sqrt()) if finite.any() else 0.0
    within = spread * (_HALF_ROUNDING if dtype in (torch.float16, torch.bfloat16) else _ROUNDING)
    twice = again.detach().double().cpu().flatten(1)
    if twice.shape != flat.shape or not torch.allclose(flat, twice, rtol=0, atol=within, equal_nan=True):
        return {"values": "random", "within": 0.0}
    # directions fixed by a formula, so that no generator is involved
    direction = torch.cos(torch.arange(1.0, 1.0 + flat.shape[1], dtype=torch.float64).square())
    values = flat.nan_to_num(0, 0, 0) @ direction / direction.norm()
    return {
        "values": [float(f"{v:.6g}") if ok else None for v, ok in zip(values, finite, strict=True)],
        "within": float(f"{within:.3g}"),
    }


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` as it comes back from JSON: to compare what was written with what is asked for."""
    result: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
    return result


def check_same(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """InputError, naming what differs, unless the file `path` of the run `stored` is of the run `config`."""
    now = plain(config)
    different = [
        f"{key} ({_short(stored.get(key))} there, {_short(now.get(key))} here)"
        for key in sorted(stored.keys() | now.keys())
        if not _agree(stored.get(key), now.get(key))
    ]
    if different:
        raise InputError(
            f"{path}: expected the run that wrote it, got one with another {', another '.join(different)};"
            " resume with the same arguments, or choose another folder"
        )


def _short(value: Any) -> str:
    return shorten(str(value), 60, placeholder=" ...")


def _agree(stored: Any, now: Any) -> bool:
    if not (isinstance(stored, dict) and isinstance(now, dict)):
        return bool(stored == now)
    if stored.keys() == now.keys() == {"values", "within"}:
        old, new, within = stored["values"], now["values"], max(stored["within"], now["within"])
        if not (isinstance(old, list) and isinstance(new, list)) or len(old) != len(new):
            return bool(old == new)
        return all(
            a == b or (None not in (a, b) and abs(a - b) <= within) for a, b in zip(old, new, strict=True)
        )
    return stored.keys() == now.keys() and all(_agree(stored[key], now[key]) for key in stored)
