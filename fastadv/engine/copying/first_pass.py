"""Whether the first pass of a model runs modules that it should not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fastadv._torch import COMPILED_FUNCTION, compiled_call, holds_compiled
from fastadv.engine.copying.modes import mentions_mode, trains
from fastadv.engine.copying.names import read_by
from fastadv.engine.copying.reach import modules_in
from fastadv.errors import InputError

ORIGINAL = (
    "expected a module that runs its own parts, got one whose copy runs {} of the original; "
    "write its forward as a method that reaches every part through self"
)
UNREGISTERED = (
    "expected registered parts or parts in eval mode, got {} in training mode, which model.eval() does not "
    "change; hold parts in attributes or nn.ModuleList, or call their eval()"
)
# of each copy, the models whose parts must not run in it
_originals: "WeakKeyDictionary[nn.Module, list[ref[nn.Module]]]" = WeakKeyDictionary()


def bar(copied: nn.Module, *models: nn.Module) -> None:
    """Let `copied` be refused where its first pass runs parts of these models."""
    _originals[copied] = [ref(model) for model in models]


def _barred(model: nn.Module) -> Iterator[nn.Module]:
    for part in model.modules():
        for other in _originals_of(part):
            yield from (*other.modules(), *_barred(other))


def _originals_of(copied: nn.Module) -> list[nn.Module]:
    return [model for original in _originals.get(copied, ()) if (model := original()) is not None]


def _is_compiled(part: nn.Module) -> bool:
    by_forward = hasattr(vars(part).get("forward"), COMPILED_FUNCTION)
    return by_forward or holds_compiled(part) or compiled_call(part) is not None


@contextmanager
def stays_inside(model: object, original: bool = False) -> Iterator[None]:
    """Raise InputError before this thread calls a module that may not run in `model`, inside.

    Of a copy, these are modules of the original, which a forward may read from a global variable or a weak
    reference, and parts in training mode that `eval` does not reach; of a function, modules in training mode.
    A direct call of a module's `forward` is not seen, nor is what compiled code runs. With `original` a
    copy may run modules of its original, which are in eval mode.
    """
    known, bars = set[nn.Module](), dict[nn.Module, str]()
    if isinstance(model, nn.Module):
        own = list(model.modules())
        if any(map(_is_compiled, own)):
            yield
            return
        others = {*modules_in(model)}.difference(own)
        bars |= {part: UNREGISTERED for part in others if part.training and mentions_mode(part)}
        for copied in _originals_of(model) if original else [model]:
            bars |= dict.fromkeys(_barred(copied), ORIGINAL)
    elif compiled := getattr(model, COMPILED_FUNCTION, None):  # whose calls are not seen
        for value in (compiled, *read_by(compiled)):
            for part in modules_in(value):
                if why := trains(part, model):
                    raise InputError(f"model: {why}")
        yield
        return
    strays: list[InputError] = []
    thread = threading.get_ident()

    def before(part: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != thread or part in known:
            return
        why = bars[part].format(type(part).__name__) if part in bars else None
        if not isinstance(model, nn.Module):
            why = trains(part, model)
            known.update(part.modules())
        if why is not None:
            strays.append(InputError(f"model: {why}"))
            raise strays[0]

    hook = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()
    if strays:  # the model caught the error
        raise strays[0]
