"""First passes, in which functions that run a module in training mode are refused, and copies that stray."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fastadv.engine.copy import barred, refuse
from fastadv.engine.precision import NOTHING
from fastadv.errors import InputError

DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
FUNCTION = (
    "model: expected a function that runs modules in eval mode, got one with {} in training mode, in which "
    "{} would learn from the attack or draw random numbers; call its eval(), or pass the module"
)


def first_pass(model: object) -> AbstractContextManager[None]:
    """Return what a first pass of the model is made in; a module without a copy of ours needs nothing."""
    if not isinstance(model, nn.Module):
        return _watched(_refusing())
    parts = barred(model)
    return _watched(partial(refuse, parts)) if parts else NOTHING


def _refusing() -> Callable[[nn.Module], None]:
    """Return what refuses a module that a function calls if a part of it would learn or drop."""
    seen = set[nn.Module]()  # with the parts of what was called: dropout in a module in eval mode is meant

    def look(root: nn.Module) -> None:
        if root in seen:
            return
        parts = list(root.modules())
        for part in parts:
            if part.training and (_learns(part) or (root.training and _drops(part))):
                raise InputError(FUNCTION.format(type(root).__name__, type(part).__name__))
        seen.update(parts)

    return look


def _learns(part: nn.Module) -> bool:
    """Return whether it updates statistics in training mode, as a BatchNorm does, a scripted one too."""
    return getattr(part, "running_mean", None) is not None


def _drops(part: Any) -> bool:
    inside = isinstance(part, nn.RNNBase | nn.MultiheadAttention)
    chance: float = part.dropout if inside else part.p if isinstance(part, DROPOUTS) else 0.0
    return chance > 0


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
