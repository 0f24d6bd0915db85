"""Whether a module computes otherwise in training mode, or where a gradient is followed."""

import inspect
from collections.abc import Iterable
from types import CodeType
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fastadv.engine.copying.reach import modules_in

MODE = frozenset({"training"})
GRAD_MODE = frozenset({"is_grad_enabled", "requires_grad", "grad_fn", "is_inference_mode_enabled"})
_by_grad_mode: "WeakKeyDictionary[type, bool]" = WeakKeyDictionary()
TRAINING = (
    "expected a function that runs modules in eval mode, got one with {} in training mode, in which {} would "
    "learn from the attack or draw random numbers; call its eval(), or pass the module"
)


def mentions_mode(module: nn.Module) -> bool:
    """Return whether code of the module's class mentions `training`; True where that cannot be read."""
    if isinstance(module, torch.jit.ScriptModule) or "forward" in vars(module):
        return True
    return _mentions(type(module).__mro__, MODE)


def asks_for_gradients(model: object, parts: Iterable[nn.Module]) -> bool:
    """Return whether code of a function, or of parts that are not torch's, asks if a gradient is followed."""
    for kind in set(map(type, parts)):
        if kind not in _by_grad_mode:
            foreign = not kind.__module__.startswith("torch.")
            _by_grad_mode[kind] = foreign and _mentions(kind.__mro__, GRAD_MODE)
        if _by_grad_mode[kind]:
            return True
    return _names_any(model, GRAD_MODE)


def reads_mode(module: nn.Module) -> bool:
    """Return whether what the module itself computes may depend on its mode."""
    if hasattr(module, "running_mean"):  # of a scripted BatchNorm, too
        return module.running_mean is not None
    named = (getattr(module, name, None) for name in ("p", "dropout", "drop_prob"))
    chances = [each for each in named if isinstance(each, int | float)]
    if isinstance(module, nn.RNNBase) and module.num_layers == 1:
        return False
    # others of torch's take another way to the same values
    same = type(module).__module__.startswith("torch.") and not isinstance(module, nn.RReLU)
    return mentions_mode(module) and (any(chances) if chances else not same)


def stays_in_training(module: nn.Module) -> bool:
    """Return whether a copy keeps it in training mode: cuDNN differentiates no other recurrent layer."""
    if not isinstance(module, nn.RNNBase) or reads_mode(module) or not on_gpu(module):
        return False
    own = [base for base in type(module).__mro__ if not base.__module__.startswith("torch.")]
    return not _mentions(own, MODE)


def on_gpu(module: nn.Module) -> bool:
    return any(weight.is_cuda for weight in module.parameters(recurse=False))


def trains(root: nn.Module, function: object) -> str | None:
    """Return why the module `root` may not run in a function: it learns, or draws numbers unasked."""
    for part in root.modules():
        if part.training and reads_mode(part):
            asked = any(
                part in module.modules() for module in (root, *modules_in(function)) if not module.training
            )
            if not asked or next(part.buffers(recurse=False), None) is not None:
                return TRAINING.format(type(root).__name__, type(part).__name__)
    return None


def _mentions(bases: Iterable[type], names: frozenset[str]) -> bool:
    """Return whether methods of classes hold one of the names."""
    bases = [base for base in bases if not issubclass(nn.Module, base)]
    methods = [value for base in bases for name, value in vars(base).items() if name != "__init__"]
    return any(_names_any(inspect.unwrap(method), names) for method in methods if callable(method))


def _names_any(function: object, names: frozenset[str]) -> bool:
    """Return whether code of a function holds one of the names."""
    code = function if isinstance(function, CodeType) else getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return False
    held = *code.co_names, *code.co_consts
    return not names.isdisjoint(held) or any(_names_any(inner, names) for inner in code.co_consts)
