"""Whether the first pass of a model runs modules that would learn from an attack."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fastadv._torch import COMPILED_FUNCTION
from fastadv.engine.copying.modes import reads_mode
from fastadv.engine.copying.reach import modules_in
from fastadv.engine.module import is_compiled
from fastadv.errors import InputError

FUNCTION = (
    "model: expected a function that runs modules in eval mode, got one with {} in training mode, in which "
    "{} would learn from the attack or draw random numbers; call its eval(), or pass the module"
)
MODULE = (
    "model: expected a module that runs its own parts, got one that runs {} in training mode, in which {} "
    "would learn from the attack or draw random numbers; write its forward as a method that reaches every "
    "part through self, hold parts in attributes or nn.ModuleList, or call their eval()"
)
ORIGINAL = (
    "model: expected a module that runs its own parts, got one whose copy runs {} of the original; "
    "write its forward as a method that reaches every part through self"
)
# of modules that are to replace others, those whose parts must not run in them
_originals: "WeakKeyDictionary[nn.Module, list[ref[nn.Module]]]" = WeakKeyDictionary()


def bar(copied: nn.Module, *models: nn.Module) -> None:
    """Let `copied`, which answers otherwise, be refused where its first pass runs parts of these models."""
    _originals[copied] = [ref(model) for model in models]


def bar_alike(copied: nn.Module | None, model: nn.Module) -> None:
    """Bar from a copy of a model what is barred from that."""
    if copied is not None and model in _originals:
        _originals[copied] = _originals[model]


@contextmanager
def stays_inside(model: object) -> Iterator[None]:
    """Raise InputError before this thread calls a module that learns or draws random numbers, inside."""
    # parts of a module in eval mode may be called; a direct call of `forward` or in compiled code is not seen
    own = {*model.modules()} if isinstance(model, nn.Module) else set[nn.Module]()
    originals = [original() for part in own for original in _originals.get(part, ())]
    barred = {part for original in originals if original is not None for part in original.modules()}
    compiled = getattr(model, COMPILED_FUNCTION, None)
    strays, thread = list[InputError](), threading.get_ident()

    def look(root: nn.Module) -> None:
        if root not in own and (learner := _learner(root, model)) is not None:
            text = MODULE if isinstance(model, nn.Module) else FUNCTION
            strays.append(InputError(text.format(type(root).__name__, type(learner).__name__)))
            raise strays[0]
        own.update(root.modules())

    def before(part: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != thread:
            return
        if part in barred:
            strays.append(InputError(ORIGINAL.format(type(part).__name__)))
            raise strays[0]
        look(part)

    if compiled is not None or any(map(is_compiled, own)):
        for part in modules_in(compiled):
            look(part)
        yield
        return
    hook = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()
    if strays:  # the model caught the error
        raise strays[0]


def _learner(root: nn.Module, model: object) -> nn.Module | None:
    """Return a part of `root` that learns, or draws numbers in a function where nobody asked for them."""
    learners = [part for part in root.modules() if part.training and reads_mode(part)]
    if not learners or isinstance(model, nn.Module):
        return next(iter(learners), None)
    # dropout is meant where the module around it is in eval mode
    around = [module for module in (root, *modules_in(model)) if not module.training]
    meant = {part for module in around for part in module.modules()}
    return next((part for part in learners if part not in meant or [*part.buffers(recurse=False)]), None)
