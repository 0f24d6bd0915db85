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
    """A copy of a model before a pass of it: attributes, containers and objects in them, and tensors."""

    def __init__(self, copied: nn.Module) -> None:
        held = list(reachable(copied, _held))
        # named here, since np.random takes long to import
        generators = random.Random, np.random.RandomState, np.random.Generator, torch.Generator
        opaque = *generators, np.ndarray, Iterator
        self._opaque = any(isinstance(each, opaque) or getattr(type(each), "__slots__", ()) for each in held)
        tensors = [each for each in held if isinstance(each, Tensor) and each.layout == torch.strided]
        self._weights = [(t, (None, t.data_ptr())) for t in tensors if isinstance(t, nn.Parameter)]
        self._tensors = [(t, t.detach().clone()) for t in tensors if not isinstance(t, nn.Parameter)]
        groups = (each if isinstance(each, CONTAINERS) else getattr(each, "__dict__", None) for each in held)
        self._groups = [(each, _members(each)) for each in groups if isinstance(each, CONTAINERS)]

    def written(self) -> bool:
        """Return whether a pass has written since, or may have, into what is not looked into, as a generator.

        Not seen are writes in place into parameters and sparse tensors.
        """
        return (
            self._opaque
            or any((each.grad, each.data_ptr()) != then for each, then in self._weights)
            or not (
                all(_same(_members(group), members) for group, members in self._groups)
                and all(torch.equal(*pair) for pair in self._tensors)
            )
        )


def _held(value: object) -> Iterable[Any]:
    """Return what anything but a function holds: what a hook writes elsewhere is its own matter."""
    return () if isinstance(value, FunctionType | MethodType) else inside(value)


def _members(group: Any) -> list[Any]:
    return [*group.keys(), *group.values()] if isinstance(group, dict) else [*group]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))
