"""Whether a pass writes into a model."""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from operator import is_
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv.engine.copying.reach import inside, reachable

CONTAINERS = (dict, list, set, deque)


class Trace:
    """A model before a pass of it: attributes, containers and objects in them, and tensors."""

    def __init__(self, model: nn.Module) -> None:
        held = list(reachable(model, _held))
        # named here, since np.random takes long to import
        generators = random.Random, np.random.RandomState, np.random.Generator, torch.Generator
        opaque = *generators, np.ndarray, Iterator
        self._opaque = any(isinstance(each, opaque) or getattr(type(each), "__slots__", ()) for each in held)
        tensors = {each for each in held if isinstance(each, Tensor) and each.layout == torch.strided}
        weights = {each for each in tensors if isinstance(each, nn.Parameter)}
        self._places = [(weight, weight.grad, weight.data_ptr()) for weight in weights]
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors - weights]
        groups = [each if isinstance(each, CONTAINERS) else getattr(each, "__dict__", ()) for each in held]
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
