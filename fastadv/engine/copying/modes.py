"""Whether any part of a module is in training mode, also one that is not registered."""

import torch
from torch import nn

from fastadv._torch import COMPILED_FUNCTION
from fastadv.engine.copying.closures import reachable

# what a module of no special kind holds: its flags, tensors, parts and hooks
OWN = frozenset(vars(nn.Module())) | {COMPILED_FUNCTION, "_compiled_call_impl"}
HOOKS = tuple(name for name in OWN if "hook" in name)
# values that hold no module
SIMPLE = frozenset({type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device})


def in_training(model: nn.Module) -> bool:
    """Return whether a part is in training mode: registered, or held in a container, a closure or a hook."""
    parts = list(model.modules())
    return any(part.training for part in parts) or any(
        found.training
        for part in parts
        for value in _unusual(part)
        for found in reachable(value)
        if isinstance(found, nn.Module)
    )


def _unusual(part: nn.Module) -> list[object]:
    """Return what a module holds beside parts, tensors and numbers."""
    if isinstance(part, torch.jit.ScriptModule):
        return []
    own = vars(part)
    held = [value for name, value in own.items() if name not in OWN and not _simple(value)]
    return held + [own[name] for name in HOOKS if own.get(name)]


def _simple(value: object) -> bool:
    if type(value) in (tuple, list):
        return all(type(each) in SIMPLE for each in value)  # type: ignore[attr-defined]
    return type(value) in SIMPLE
