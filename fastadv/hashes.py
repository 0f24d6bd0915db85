"""Hashes of tensors and of JSON-able values: what tells that two are the same."""

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import singledispatch
from itertools import count
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

__all__ = ["LEAVES", "data_hash", "digest", "identity", "leaf", "plain", "seal"]

_numbers, _count = WeakKeyDictionary[Any, int](), count()  # of objects without a name
LEAVES = (type(None), bool, int, float, str, Tensor)  # what `leaf` takes


def data_hash(*values: Any) -> str:
    """First 16 hex digits of the SHA-256 of the tensors' dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for tensor in _flat(values):
        # rows in files have pieces, and are never in memory as a whole
        pieces = getattr(tensor, "pieces", None)
        if pieces is None and not isinstance(tensor, Tensor):  # as a state dict of quantized parts holds
            digest.update(repr(tensor).encode())
            continue
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        for piece in (tensor,) if pieces is None else pieces():
            # viewed as bytes, because NumPy has no bfloat16; a single value may have a stride of 0
            whole = piece.detach().cpu().contiguous().reshape(-1).as_strided((piece.numel(),), (1,))
            digest.update(whole.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values, and those of containers among them; quantized tensors as the numbers they mean."""
    for value in values:
        if isinstance(value, list | tuple | dict):
            yield from _flat(value.items() if isinstance(value, dict) else value)
        else:
            yield value.dequantize() if isinstance(value, Tensor) and value.is_quantized else value


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of the names, dtypes, shapes and bytes of `tensors`; their order does not matter."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def seal(value: Any) -> str:
    """SHA-256, in hex, of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def leaf(value: Any) -> Any:
    """Return None, a number, a text or a tensor as JSON, which has no infinity and no tensors."""
    if isinstance(value, Tensor):
        return leaf(value.item()) if value.ndim == 0 else data_hash(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """Return a value as JSON: lists and tuples by their parts, what is no `leaf` as it is printed."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return leaf(value) if isinstance(value, LEAVES) else repr(value)


@singledispatch
def identity(value: Any) -> Any:
    """Return as JSON what tells a value from others in this process.

    Of a dataclass these are its fields, of what a module has under its name that name; anything else is equal
    to itself alone. A class whose values are equal by less registers what tells them apart.
    """
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: identity(getattr(value, field.name)) for field in fields(value)}
        return [identity(type(value)), held]
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    named = getattr(sys.modules.get(str(module)), name, None) is value
    return f"{module}.{name}" if named else f"{name} {_number(value)}"


@identity.register(tuple)
@identity.register(list)
def _(values: Iterable[Any]) -> list[Any]:
    return [identity(value) for value in values]


@identity.register
def _(value: MethodType) -> list[Any]:
    return [identity(value.__func__), identity(value.__self__)]


for kind in LEAVES:
    identity.register(kind, leaf)


def _number(value: Any) -> int:
    """Return a number that no other object has, also after this one is gone."""
    try:
        return _numbers.setdefault(value, next(_count))
    except TypeError:  # it has no hash, or no weak reference
        return id(value)
