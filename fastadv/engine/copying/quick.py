"""A copy of a module in eval mode that takes microseconds a part, where the module has nothing unusual."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import copy
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin

from fastadv._torch import NormBase, held_by
from fastadv.engine.copying.closures import reachable
from fastadv.engine.copying.inside import stays_in_training
from fastadv.engine.copying.strays import may_stray
from fastadv.engine.copying.twin import alias, normalizes, same_products, twin
from fastadv.engine.precision import NOTHING

# what every module holds: its mode, tensors, parts and hooks
OWN = frozenset(vars(nn.Module()))
HOOKS = tuple(name for name in OWN if "hook" in name and name != "_is_full_backward_hook")
FIXED = frozenset({type(None), bool, int, float, complex, str, bytes, type, BuiltinFunctionType, torch.Size})
FIXED |= {torch.dtype, torch.device, torch.layout, torch.memory_format}
CONTAINERS = (list, dict, set)

# layers that a copy may have changed: a gradient of theirs is mended, or a mode is theirs alone
CHANGED = (NormBase, nn.RNNBase, nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoderLayer)
CALLED = tuple(name for name in HOOKS if "forward" in name or "backward" in name)
_quiet: "WeakKeyDictionary[type[nn.Module], bool]" = WeakKeyDictionary()
# for each class of modules, whether a copy can be made here
_ordinary: "WeakKeyDictionary[type[nn.Module], bool]" = WeakKeyDictionary()


def eval_copy(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """Return a copy in eval mode that shares weights and statistics, and its parts; by `twin` if unusual.

    A model in eval mode that is made of torch's own layers, which write nothing, is its own copy.
    """
    own = list(model.modules())
    if all(map(_writes_nothing, own)):
        return model, own
    parts: dict[int, nn.Module] = {}
    todo = [model]
    while todo:  # in the order of `modules`
        part = todo.pop()
        if id(part) in parts:
            continue
        if not _is_ordinary(part):
            copied = twin(model, follow=False)
            return copied, list(copied.modules())
        parts[id(part)] = part
        todo += [child for child in reversed(held_by(part)[2].values()) if child is not None]
    copies: dict[int, nn.Module] = {key: object.__new__(type(part)) for key, part in parts.items()}
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else NOTHING:
        _fill(parts.values(), copies)
    return copies[id(model)], list(copies.values())


def _writes_nothing(part: nn.Module) -> bool:
    kind, own = type(part), vars(part)
    known = _quiet.get(kind)
    if known is None:
        theirs = kind.__module__.startswith("torch.nn.modules.") and not issubclass(kind, CHANGED)
        known = _quiet[kind] = theirs and not issubclass(kind, LazyModuleMixin)
    if not known or own["training"] or "forward" in own or any(own[name] for name in CALLED):
        return False
    held = (each for tensors in held_by(part)[:2] for each in tensors.values() if each is not None)
    return all(type(each) in (Tensor, nn.Parameter) and not each.is_inference() for each in held)


def _fill(parts: Iterable[nn.Module], copies: dict[int, nn.Module]) -> None:
    made: dict[int, Any] = {}

    def once(value: Any, copied: Callable[[Any], Any]) -> Any:
        """Return the one copy of a value, which several parts may hold."""
        if id(value) not in made:
            made[id(value)] = copied(value)
        return made[id(value)]

    for part in parts:
        own = vars(copies[id(part)])
        own.update(vars(part))
        for name in own.keys() - OWN:
            if type(own[name]) in CONTAINERS:
                own[name] = once(own[name], copy)
        for name in HOOKS:
            own[name] = OrderedDict()
        own["_non_persistent_buffers_set"] = set(own["_non_persistent_buffers_set"])
        own["training"] = stays_in_training(part)
        weights, buffers, children = held_by(part)
        own["_parameters"] = {
            name: None if value is None else once(value, _shared) for name, value in weights.items()
        }
        own["_buffers"] = {
            name: value if value is None or normalizes(part) else once(value, _cloned)
            for name, value in buffers.items()
        }
        own["_modules"] = {
            name: None if child is None else copies[id(child)] for name, child in children.items()
        }
        same_products(part, copies[id(part)])


def _shared(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(alias(weight) if weight.is_inference() else weight, requires_grad=False)


def _cloned(buffer: Tensor) -> Tensor:
    return buffer.detach().clone()


def _is_ordinary(part: nn.Module) -> bool:
    kind = type(part)
    ordinary = _ordinary.get(kind)
    if ordinary is None:
        ordinary = _ordinary[kind] = _is_ordinary_class(kind) and not may_stray([part])
    own = vars(part)
    if not ordinary or not own.keys() >= OWN:
        return False
    for name in HOOKS:
        if own[name]:
            return False
    for name in own.keys() - OWN:
        value = own[name]
        if type(value) not in FIXED and not _is_known(value):
            return False
    weights = (weight for weight in own["_parameters"].values() if weight is not None)
    statistics = (buffer for buffer in own["_buffers"].values() if buffer is not None)
    return all(type(weight) is nn.Parameter for weight in weights) and not any(
        buffer.is_inference() for buffer in statistics
    )


def _is_ordinary_class(kind: type[nn.Module]) -> bool:
    """Return whether modes and copies of the class are those of every module."""
    scripted = issubclass(kind, torch.jit.ScriptModule | fx.GraphModule)
    same: tuple[Callable[..., Any], ...] = (nn.Module.train, nn.Module.eval)
    return not scripted and (kind.train, kind.eval) == same and not hasattr(kind, "__deepcopy__")


def _is_known(value: object) -> bool:
    """Return whether nothing that the value leads to is a module, a tensor, or of an unknown kind."""
    if type(value) in (list, tuple, set, frozenset):
        return all(type(each) in FIXED for each in value)  # type: ignore[attr-defined]
    if type(value) is dict:
        return all(type(each) in FIXED for pair in value.items() for each in pair)
    if isinstance(value, FunctionType | partial):
        parts = list(reachable(value))
        return all(map(_is_code, parts)) and not may_stray(parts)
    return isinstance(value, type | Enum)


def _is_code(value: object) -> bool:
    """Return whether a value that a function leads to holds no state."""
    if type(value) in CONTAINERS:
        return not value
    return type(value) in FIXED or isinstance(value, FunctionType | partial | tuple | type)
