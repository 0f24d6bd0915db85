"""copied: a copy of a model in eval mode that owns no weights; its parameters are the caller's storage."""

import copy
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from fastadv._torch import changed, copy_all_, parts_of, tensors_of, version
from fastadv.engine.mode import InEval
from fastadv.engine.module import is_compiled
from fastadv.engine.stamp import OWN
from fastadv.errors import InputError

PLAIN = frozenset({int, float, bool, str, type(None), FunctionType, BuiltinFunctionType})
REFUSED = (
    "model: expected a module that copy.deepcopy can copy, got {} ({}); hold what it refuses outside of the "
    "module, or use the model as it is"
)
ORIGINAL = (
    "model: expected a module that runs its own parts, got one whose copy runs {} of the original; "
    "write its forward as a method that reaches every part through self"
)
# Copies, with the models whose parts must not run in them
_originals: "WeakKeyDictionary[nn.Module, WeakSet[nn.Module]]" = WeakKeyDictionary()


def copied(model: nn.Module, buffers: bool = False, name: str = "") -> nn.Module:
    """Return a copy of `model` in eval mode that shares its parameters and asks for no weight gradient.

    With `buffers` it shares these, too; `name` is that of the model in errors. Raises InputError where there
    can be no copy. Functions are shared: where one runs parts of `model` itself, the first pass of the copy
    raises InputError.
    """
    parts, name = parts_of(model), name or type(model).__name__
    weights, held = tensors_of(parts)
    counted = [weight for weight in weights if not weight.is_inference()]
    before = list(map(version, counted))
    with InEval(parts), torch.inference_mode(False), torch.no_grad():
        if list(map(version, counted)) != before:
            raise InputError(REFUSED.format(name, "its eval() changes its weights; call that before"))
        memo: dict[int, Any] = {id(weight): _shared(weight) for weight in weights}
        memo |= {id(buffer): _shared(buffer) for buffer in held if buffers or buffer.is_inference()}
        # activations that a hook has stored, and weights that are computed
        others = [one for one in _tensors_in(vars(part) for part in parts) if not one.is_leaf]
        memo |= {id(one): one.detach() for one in others}
        try:
            result: nn.Module = copy.deepcopy(model, memo)
        except Exception as error:  # a copy runs code of the object, which may raise anything
            raise InputError(REFUSED.format(name, error)) from error
        twins = parts_of(result)
        if not {*twins, *result.parameters()}.isdisjoint((*parts, *weights)):
            raise InputError(REFUSED.format(name, "it shares parts with its copy"))
        result.eval()
        for part in twins:
            # torch chooses the products of attention by whether its weights want a gradient
            for weight in () if isinstance(part, nn.MultiheadAttention) else part.parameters(recurse=False):
                weight.requires_grad_(False)
    bar(result, model)
    return result


def _shared(tensor: Tensor) -> Tensor:
    """Return what shares its memory; of an inference tensor a copy, which can be part of a graph."""
    twin = tensor.clone() if tensor.is_inference() else tensor.data
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """Yield the tensors in lists, tuples and dictionaries."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from _tensors_in(value.values() if isinstance(value, dict) else value)


def bar(copied: nn.Module, *models: nn.Module) -> None:
    """Let `copied` be refused where its first pass runs parts of these models."""
    _originals[copied] = WeakSet(models)


def barred(model: nn.Module) -> set[nn.Module]:
    """Return the modules that must not run in a pass of the model: parts of those that it holds copies of."""
    parts = list(model.modules()) if _originals else []
    originals = [original for part in parts for original in _originals.get(part, ())]
    if not originals or any(map(is_compiled, parts)):  # hooks do not see what compiled code calls
        return set()
    return {part for original in originals for part in original.modules()}


def refuse(parts: set[nn.Module], part: nn.Module) -> None:
    """Raise InputError where a part is one of those."""
    if part in parts:
        raise InputError(ORIGINAL.format(type(part).__name__))


def take_values(twin: nn.Module, model: nn.Module) -> None:
    """Write the model's values into a copy, with its numbers, texts and functions."""
    parts = dict(model.named_modules())
    for name, part in twin.named_modules():
        attributes, values = vars(part), vars(parts[name])
        both = attributes.keys() & values.keys() - OWN
        attributes.update({key: values[key] for key in both if type(values[key]) in PLAIN})
    # looked up each time, by all their names: a change of precision replaces buffers one by one, and a
    # `__deepcopy__` may part tied weights
    held, origin = dict(_named(twin)), dict[Tensor, Tensor]()
    for name, theirs in _named(model):
        origin.setdefault(held[name], theirs)
    pairs = dict[tuple[torch.dtype, torch.dtype], list[tuple[Tensor, Tensor]]]()
    for mine, theirs in origin.items():
        if mine.data_ptr() != theirs.data_ptr():
            pairs.setdefault((mine.dtype, theirs.dtype), []).append((mine, theirs))
        else:  # in one memory it has the values, but its version is its own
            changed([mine])
    for several in pairs.values():  # older versions of torch take all for what the first are
        copy_all_(*zip(*several, strict=True))


def _named(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters, buffers = module.named_parameters, module.named_buffers
    return [*parameters(remove_duplicate=False), *buffers(remove_duplicate=False)]
