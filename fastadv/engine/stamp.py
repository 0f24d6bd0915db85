"""Whether a model still is what it was: one look takes microseconds (about 100 for a ResNet-18)."""

from collections import deque
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import version

CONTAINERS = (dict, list, tuple, set, frozenset, deque)
FIXED = (type(None), bool, int, float, complex, str, bytes, type, Enum, BuiltinFunctionType, ModuleType)
OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator)


class Stamp:
    """The parts, attributes, modes and hooks of models, where their tensors lie, and their values."""

    # It sees writes that torch counts, and on a CPU others, such as `parameter.data.mul_(2)`, into the first,
    # middle or last element. What is inside of other objects, arrays of NumPy and closures is not `known`.

    def __init__(self, *models: nn.Module, values: bool = True) -> None:
        """Look at the models; `values`: those of tensors count, too."""
        parts = _parts(models)
        self.known = all(map(_known, parts))
        containers = [part for part in parts if isinstance(part, CONTAINERS)]
        self._empty = [part for part in containers if not part]  # most, which are quicker to look at
        self._held = [part for part in containers if part]
        self._then = list(map(_copied, self._held))
        tensors = [part for part in parts if isinstance(part, Tensor)]
        self._placed = list(filter(_is_ordinary, tensors))
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


def _parts(models: tuple[nn.Module, ...]) -> list[Any]:
    """Return what models lead to by attributes and containers, each once."""
    seen: dict[int, Any] = {}
    left: list[Any] = list(models)
    while left:
        part = left.pop()
        part = vars(part) if isinstance(part, nn.Module) else part
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, CONTAINERS):
            left += part.values() if isinstance(part, dict) else part
    return list(seen.values())


def _is_ordinary(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


def _known(part: object) -> bool:
    if isinstance(part, FunctionType):
        return not part.__closure__ or part.__module__.startswith("torch.")
    return isinstance(part, (*FIXED, *OF_TORCH, *CONTAINERS, Tensor))


def _copied(container: Any) -> Any:
    return next(kind(container) for kind in CONTAINERS if isinstance(container, kind))
