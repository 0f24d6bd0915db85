"""First passes, in which functions that run a module in training mode are refused, and copies that stray."""

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fastadv._torch import COMPILED_FUNCTION
from fastadv.engine.copy import barred, refuse
from fastadv.engine.module import modules_in
from fastadv.engine.precision import NOTHING
from fastadv.errors import InputError

GRAD_MODE = frozenset({"is_grad_enabled", "requires_grad", "grad_fn", "is_inference_mode_enabled"})
CHANCES = ("p", "dropout", "drop_prob")  # of dropping something, which are numbers
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


def _is_foreign(kind: type) -> bool:
    return not kind.__module__.startswith("torch.")


def _names_in(kind: type) -> frozenset[Any]:
    """Return the names and constants in the methods of a class of modules."""
    if kind not in _names:
        bases = [base for base in kind.__mro__ if not issubclass(nn.Module, base)]
        methods = [value for base in bases for name, value in vars(base).items() if name != "__init__"]
        codes = [getattr(inspect.unwrap(method), "__code__", None) for method in methods if callable(method)]
        _names[kind] = frozenset[Any]().union(*map(_names_of, codes))
    return _names[kind]


def _names_of(code: object) -> frozenset[Any]:
    if not isinstance(code, CodeType):
        return frozenset()
    return frozenset((*code.co_names, *code.co_consts)).union(*map(_names_of, code.co_consts))


FUNCTION = (
    "model: expected a function that runs modules in eval mode, got one with {} in training mode, in which "
    "{} would learn from the attack or draw random numbers; call its eval(), or pass the module"
)


def first_pass(model: object) -> AbstractContextManager[None]:
    """Return what a first pass of the model is made in; a module without a copy of ours needs nothing."""
    if not isinstance(model, nn.Module):
        return _refusing(model)
    parts = barred(model)
    return _watched(partial(refuse, parts)) if parts else NOTHING


def _refusing(function: object) -> AbstractContextManager[None]:
    seen = set[nn.Module]()  # with the parts of what was called: those of a module in eval mode are meant

    def look(root: nn.Module) -> None:
        if root not in seen and (learner := _learner(root, function)) is not None:
            raise InputError(FUNCTION.format(type(root).__name__, type(learner).__name__))
        seen.update(root.modules())

    compiled = getattr(function, COMPILED_FUNCTION, None)
    if compiled is None:
        return _watched(look)
    for part in modules_in(compiled):  # hooks do not see what compiled code calls
        look(part)
    return NOTHING


@contextmanager
def _watched(look: Callable[[nn.Module], None]) -> Iterator[None]:
    """Look at each module before this thread calls it inside; the error of a look goes on, even if caught."""
    strays, thread = list[InputError](), threading.get_ident()

    def before(part: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != thread:
            return
        try:
            look(part)
        except InputError as error:
            strays.append(error)
            raise

    hook = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()
    if strays:
        raise strays[0]


def _learner(root: nn.Module, function: object) -> nn.Module | None:
    """Return a part of `root` that would learn, or draw numbers where nobody asked for them."""
    learners = [part for part in root.modules() if part.training and reads_mode(part)]
    if not learners:
        return None
    # dropout is meant where the module around it is in eval mode
    around = [module for module in (root, *modules_in(function)) if not module.training]
    meant = {part for module in around for part in module.modules()}
    return next((part for part in learners if part not in meant or [*part.buffers(recurse=False)]), None)
