"""Stamp: whether a model is what it was when it was looked at."""

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import parts_of, tensors_of, version

ORDINARY = frozenset({Tensor, nn.Parameter, getattr(nn, "Buffer", Tensor)})
OWN = frozenset(vars(nn.Module()))  # what every module has: its mode, tensors, parts and hooks
HOOKS = tuple(name for name in OWN if "hook" in name and name != "_is_full_backward_hook")
HOLDS = (*HOOKS, "_parameters", "_buffers", "_modules")


def is_hooked(part: nn.Module) -> bool:
    return any(vars(part).get(name) for name in HOOKS)


class Stamp:
    """The parts of a model with their modes and hooks, where their tensors lie, and what was written there.

    What a module holds besides, such as a number, a function or a list, it does not see.
    """

    def __init__(self, model: nn.Module | None, values: bool = True) -> None:
        """Look at a model, None for a function; `values`: writes into tensors count, too."""
        self._model, self._values = model, values
        self._look()

    def renew(self) -> None:
        """Take what has changed as it is now."""
        if not self.same():
            self._look()

    def _look(self) -> None:
        self._parts = [] if self._model is None else parts_of(self._model)
        held = [vars(part).get(name) for part in self._parts for name in HOLDS]
        # each as it is and as it was; not all are dictionaries in scripts
        self._held: list[dict[str, Any]] = [of_kind for of_kind in held if isinstance(of_kind, dict)]
        self._then = list(map(dict, self._held))
        self._tensors = [tensor for of_kind in tensors_of(self._parts) for tensor in of_kind]
        self._facts = self._now()

    def _now(self) -> list[Hashable]:
        modes = ((type(part), getattr(part, "training", None)) for part in self._parts)
        return [*modes, *map(self._fact, self._tensors)]

    def _fact(self, tensor: Tensor) -> Hashable:
        lies = type(tensor) in ORDINARY and tensor.layout is torch.strided
        counts = self._values and not tensor.is_inference()
        return tensor.data_ptr() if lies else 0, version(tensor) if counts else 0

    def same(self) -> bool:
        """Return whether nothing has changed."""
        with suppress(Exception):  # what took a value's place may refuse to be compared with it
            return self._held == self._then and self._now() == self._facts
        return False


FIXED: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, type, Enum, BuiltinFunctionType, ModuleType,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip


def is_seen(model: nn.Module) -> bool:
    """Return whether modules hold numbers, texts and functions alone, beside what is registered."""
    values = [value for part in parts_of(model) for name, value in vars(part).items() if name not in OWN]
    return all(map(_is_fixed, values))


def _is_fixed(value: object) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_fixed, value))
    if isinstance(value, dict):
        return all(map(_is_fixed, (*value, *value.values())))
    if not isinstance(value, type) and (is_dataclass(value) or type(value).__name__.endswith("Config")):
        return hasattr(value, "__dict__") and _is_fixed(vars(value))  # as nets of Hugging Face hold
    if isinstance(value, FunctionType):
        return not value.__closure__ or value.__module__.startswith("torch.")
    return isinstance(value, FIXED)
