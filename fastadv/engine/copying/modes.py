"""Whether a module computes otherwise in training mode, or where a gradient is followed."""

import inspect
from collections.abc import Iterable
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

GRAD_MODE = frozenset({"is_grad_enabled", "requires_grad", "grad_fn", "is_inference_mode_enabled"})
CHANCES = ("p", "dropout", "drop_prob")  # of dropping something, which are numbers
RECURRENT = frozenset({nn.RNN, nn.LSTM, nn.GRU})
_names: "WeakKeyDictionary[type, frozenset[Any]]" = WeakKeyDictionary()


def reads_mode(module: nn.Module) -> bool:
    """Return whether what the module itself computes may depend on its mode."""
    if hasattr(module, "running_mean"):  # of a scripted BatchNorm, too
        return module.running_mean is not None
    unread = isinstance(module, torch.jit.ScriptModule) or "forward" in vars(module)
    if not unread and "training" not in _names_in(type(module)):
        return False
    named = (getattr(module, name, None) for name in CHANCES)
    chances = [chance for chance in named if isinstance(chance, int | float)]
    # others of torch's take another way to the same values
    return any(chances) if chances else _is_foreign(type(module)) or isinstance(module, nn.RReLU)


def asks_for_gradients(model: object, parts: Iterable[nn.Module]) -> bool:
    """Return whether code of a function, or of parts that are not torch's, asks if a gradient is followed."""
    named = [_names_in(kind) for kind in {*map(type, parts)} if _is_foreign(kind)]
    return not all(map(GRAD_MODE.isdisjoint, [*named, _names_of(getattr(model, "__code__", None))]))


def stays_in_training(module: nn.Module) -> bool:
    """Return whether a copy keeps it in training mode: cuDNN differentiates no other recurrent layer."""
    return type(module) in RECURRENT and on_gpu(module) and not reads_mode(module)


def on_gpu(module: nn.Module) -> bool:
    return any(weight.is_cuda for weight in module.parameters(recurse=False))


def _is_foreign(kind: type) -> bool:
    return not kind.__module__.startswith("torch.")


def _names_in(kind: type) -> frozenset[Any]:
    """Return the names and constants in the methods of a class of modules."""
    if kind not in _names:
        bases = [base for base in kind.__mro__ if not issubclass(nn.Module, base)]
        methods = [value for base in bases for name, value in vars(base).items() if name != "__init__"]
        codes = [getattr(inspect.unwrap(each), "__code__", None) for each in methods if callable(each)]
        _names[kind] = frozenset[Any]().union(*map(_names_of, codes))
    return _names[kind]


def _names_of(code: object) -> frozenset[Any]:
    if not isinstance(code, CodeType):
        return frozenset()
    return frozenset((*code.co_names, *code.co_consts)).union(*map(_names_of, code.co_consts))
