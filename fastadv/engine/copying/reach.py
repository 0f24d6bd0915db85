"""What an object leads to: attributes, members of containers, variables of functions; and what changes."""

import gc
import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Enum
from functools import partial
from operator import is_
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._torch import version

# Types that modules hold most often, and that lead nowhere
ATOMS = frozenset({type(None), bool, int, float, str, bytes})
HOLDERS = (dict, list, tuple, set, frozenset, deque, MethodType, partial, CellType)
LEAVES = (Tensor, type, ModuleType, Enum)
# packages whose objects lead to no model
FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}


def inside(value: object) -> Iterable[Any]:
    """Return what `value` leads to itself: attributes, or what a container or function holds."""
    if isinstance(value, HOLDERS):
        return gc.get_referents(value)
    if isinstance(value, FunctionType):
        return [value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)]
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, LEAVES) or (package in FOREIGN and not isinstance(value, nn.Module)):
        return ()
    return getattr(value, "__dict__", {}).values()


def content(cell: CellType) -> object:
    """Return what a variable of a closure holds; None where it has no value yet."""
    return next(iter(gc.get_referents(cell)), None)


def reachable(
    value: object, inside: Callable[[object], Iterable[Any]] = inside, but: Collection[int] = ()
) -> Iterator[object]:
    """Yield the objects that `value` leads to, itself included, each once; none of the types ATOMS."""
    seen: dict[int, object] = {}  # held, so that no other object gets an id of theirs
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if type(value) in ATOMS or id(value) in seen or id(value) in but:
            continue
        seen[id(value)] = value
        waiting += inside(value)
        yield value


def modules_in(value: object) -> Iterator[nn.Module]:
    return (part for part in reachable(value) if isinstance(part, nn.Module))


def holds_module(value: object) -> bool:
    return next(modules_in(value), None) is not None


CONTAINERS = (dict, list, set, deque)


class Trace:
    """A model before a pass of it: attributes, containers and objects in them, and tensors."""

    def __init__(self, model: nn.Module) -> None:
        held = list(reachable(model, _held))
        # named here, since np.random takes long to import
        generators = random.Random, np.random.RandomState, np.random.Generator, torch.Generator
        opaque = *generators, np.ndarray, Iterator
        self._opaque = any(isinstance(one, opaque) or getattr(type(one), "__slots__", ()) for one in held)
        tensors = {value for value in held if isinstance(value, Tensor) and value.layout == torch.strided}
        weights = {value for value in tensors if isinstance(value, nn.Parameter)}
        self._places = [(weight, weight.grad, weight.data_ptr()) for weight in weights]
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors - weights]
        groups = [one if isinstance(one, CONTAINERS) else getattr(one, "__dict__", ()) for one in held]
        self._groups = [(group, _members(group)) for group in groups]

    def written(self) -> bool:
        """Return whether a pass has written since, or may have, into what is not looked into: a generator."""
        # writes in place into parameters and sparse tensors are not seen
        return not (
            all(weight.grad is grad and weight.data_ptr() == place for weight, grad, place in self._places)
            and all(torch.equal(*pair) for pair in self._values)
            and all(_same(_members(group), members) for group, members in self._groups)
            and not self._opaque
        )


def _held(value: object) -> Iterable[Any]:
    """Return what anything but a function holds: what a hook writes elsewhere is its own matter."""
    return () if isinstance(value, FunctionType | MethodType) else inside(value)


def _members(group: Any) -> list[Any]:
    return [*group.keys(), *group.values()] if isinstance(group, dict) else [*group]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


GROUPS = (dict, list, tuple, set, frozenset, deque)
FIXED = (type(None), bool, int, float, complex, str, bytes, type, Enum, BuiltinFunctionType, ModuleType)
OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator)


class Stamp:
    """The parts, attributes, modes and hooks of models, where their tensors lie, and their values."""

    # It sees writes that torch counts, and on a CPU others, such as `parameter.data.mul_(2)`, into the first,
    # middle or last element. What is inside of other objects, arrays of NumPy and closures is not `known`.

    def __init__(self, *models: nn.Module, values: bool = True) -> None:
        """Look at the models; `values`: those of tensors count, too."""
        parts = [part for part in reachable(models, _within) if not isinstance(part, nn.Module)]
        self.known = all(map(_known, parts))
        containers = [part for part in parts if isinstance(part, GROUPS)]
        self._empty = [part for part in containers if not part]  # most, which are quicker to look at
        self._held = [part for part in containers if part]
        self._then = [next(kind(one) for kind in GROUPS if isinstance(one, kind)) for one in self._held]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        ordinary = [tensor for tensor in tensors if type(tensor) in (Tensor, nn.Parameter)]
        self._placed = [tensor for tensor in ordinary if tensor.layout == torch.strided]
        self._counted = [tensor for tensor in tensors if values and not tensor.is_inference()]
        # Views into the tensors, which hold the memory that they look into
        self._elements = [torch.zeros(1, device="cpu")]
        for tensor in self._placed if values else ():
            if tensor.is_cpu and tensor.is_floating_point() and tensor.numel():
                for place in (0, 0.5, 1):
                    element = tensor.detach()[tuple(int(place * (size - 1)) for size in tensor.shape)]
                    self._elements.append(element.view(1))
        self._tensors = self._now()

    def same(self) -> bool:
        try:
            return not any(self._empty) and self._held == self._then and self._now() == self._tensors
        except Exception:  # what took a value's place may refuse to be compared with it
            return False

    def _now(self) -> tuple[list[int], list[int], bytes]:
        values = torch.cat(self._elements).view(torch.uint8).numpy().tobytes()
        return list(map(Tensor.data_ptr, self._placed)), list(map(version, self._counted)), values


def _within(value: object) -> Iterable[Any]:
    """Return what a module or a container leads to itself."""
    if isinstance(value, nn.Module):
        return (vars(value),)
    return value.values() if isinstance(value, dict) else value if isinstance(value, GROUPS) else ()


def _known(part: object) -> bool:
    if isinstance(part, FunctionType):
        return not part.__closure__ or part.__module__.startswith("torch.")
    return isinstance(part, (*FIXED, *OF_TORCH, *GROUPS, Tensor))
