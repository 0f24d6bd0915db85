"""Whether a model still is what it was: one look takes microseconds (about 100 for a ResNet-18)."""

import ctypes
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._torch import compiled_call, version
from fastadv.engine.copying.closures import content, inside, reachable

_PLAIN = {type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.layout}
_FIXED = (type, Enum, BuiltinFunctionType, torch.memory_format, ModuleType)
_CONTAINERS = (dict, list, set, deque)
_WORDS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
SAMPLED = 4  # elements of each tensor that are looked at
READ = 4096  # and of each array of NumPy, at least; all of a smaller one


class Stamp:
    """What a model leads to: its parts, attributes, modes and hooks, where its tensors lie, and their values.

    It sees each write that torch counts, and on a CPU others, such as `parameter.data.mul_(2)`, into one of
    SAMPLED elements, or of READ of an array of NumPy; none into other memory, nor of global variables.
    `known` is False where the model leads to an object that may change unseen.
    """

    def __init__(self, model: nn.Module, copied: nn.Module | None = None, values: bool = True) -> None:
        """Look at the model, but for what `copied` leads to as well; `values`: those of tensors count."""
        shared = set() if copied is None else {id(part) for part in reachable(copied, _inside, _PLAIN)}
        parts = list(reachable(model, _inside, _PLAIN, shared))
        self.known = all(map(_known, parts))
        held = [changeable for part in parts if (changeable := _changeable(part)) is not None]
        self._empty = [each for each in held if not each]
        self._held = [each for each in held if each]
        self._then = [_copied(each) for each in self._held]
        # equal dictionaries may differ in their order, in which a ModuleDict runs its parts
        self._ordered = [part for part in parts if isinstance(part, dict) and len(part) > 1]
        self._orders = list(map(tuple, self._ordered))
        self._objects = [part for part in parts if isinstance(part, nn.Module)]
        self._kinds = list(map(type, self._objects))
        functions = [part for part in parts if isinstance(part, FunctionType)]
        self._cells = [cell for function in functions for cell in function.__closure__ or ()]
        self._contents = list(map(content, self._cells))
        self._arrays = [part for part in parts if isinstance(part, np.ndarray)]
        self._bytes = list(map(_read, self._arrays))
        tensors = [part for part in parts if isinstance(part, Tensor)]
        self._placed = [tensor for tensor in tensors if tensor.layout == torch.strided and _place(tensor)]
        self._counted = [tensor for tensor in tensors if values and not tensor.is_inference()]
        self._sampled = [tensor for tensor in self._placed if values and _is_plain(tensor)]
        # held, so that the memory which `_elements` read stays even if a tensor is given other memory
        self._storages = [tensor.untyped_storage() for tensor in self._sampled]
        self._elements = [element for tensor in self._sampled for element in _elements(tensor)]
        self._places, self._versions = self._places_now(), list(map(version, self._counted))
        self._values = self._values_now()

    def same(self) -> bool:
        try:
            return (
                self._held == self._then
                and not any(self._empty)
                and list(map(tuple, self._ordered)) == self._orders
                and list(map(type, self._objects)) == self._kinds
                and list(map(content, self._cells)) == self._contents
                and list(map(_read, self._arrays)) == self._bytes
                and list(map(version, self._counted)) == self._versions
                and self._places_now() == self._places
                and self._values_now() == self._values  # only where the memory still is that of the tensors
            )
        except Exception:  # what took a value's place may refuse to be compared with it
            return False

    def _places_now(self) -> list[Any]:
        return [*map(Tensor.data_ptr, self._placed), *map(Tensor.stride, self._placed)]

    def _values_now(self) -> list[int]:
        return list(map(_value, self._elements))


_value = attrgetter("value")


def _inside(value: object) -> Iterable[Any]:
    """Return what an object leads to, also one of an unknown kind."""
    if isinstance(value, nn.Module):
        compiled = compiled_call(value)  # it leads to the compiler's own objects
        return [part for part in vars(value).values() if part is not compiled]
    return () if isinstance(value, Tensor) else inside(value) or inside(_changeable(value))


def _changeable(value: object) -> Any:
    """Return the container that it is, or that of its attributes; None where neither may change."""
    if isinstance(value, _CONTAINERS):
        return value
    return None if isinstance(value, (*_FIXED, Tensor)) else getattr(value, "__dict__", None)


def _known(value: object) -> bool:
    """Return whether nothing of it can change unseen."""
    kinds = (*_FIXED, *_CONTAINERS, tuple, frozenset, Tensor, nn.Module)
    return isinstance(value, kinds) or bool(inside(value))


def _copied(held: Any) -> Any:
    return next(kind(held) for kind in _CONTAINERS if isinstance(held, kind))


def _place(tensor: Tensor) -> int:
    """Return the address of its memory; 0 for one that has none."""
    try:
        return tensor.data_ptr()
    except RuntimeError:  # it is made of others
        return 0


def _is_plain(tensor: Tensor) -> bool:
    known = type(tensor) in (Tensor, nn.Parameter) and tensor.element_size() in _WORDS
    return known and tensor.device.type == "cpu" and tensor.numel() > 0


def _elements(tensor: Tensor) -> Iterator[Any]:
    """Yield a few elements of a tensor as numbers in its own memory."""
    size = tensor.element_size()
    last = sum((count - 1) * step for count, step in zip(tensor.shape, tensor.stride(), strict=True))
    for place in sorted({last * part // (SAMPLED - 1) for part in range(SAMPLED)}):
        yield _WORDS[size].from_address(tensor.data_ptr() + place * size)


def _read(array: np.ndarray[Any, Any]) -> bytes:
    return array.flat[:: max(1, array.size // READ)].tobytes()
