"""FirstPass: what a model must not do is refused in words when it passes first."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from fastadv.engine.arguments import TWO_INPUTS
from fastadv.engine.copy import barred, refuse
from fastadv.errors import InputError
from fastadv.rng import generators_kept

DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
FUNCTION = (
    "model: expected a function that runs modules in eval mode, got one with {} in training mode, in which "
    "{} would learn from the attack or draw random numbers; call its eval(), or pass the module"
)
NEEDS = f"model: expected one that takes images alone, got {{}}; {TWO_INPUTS}"
CHANNELS = (
    "model: expected images of {} channel{}, as it takes those alone, got {}; load image folders with "
    "channels={} (--data imagefolder:channels={}), or pass {}"
)
Look = Callable[[nn.Module], None]


class FirstPass:
    """Refuses inside a model that takes more than images, and parts that must not run in this thread.

    These are, of a function, modules that would learn or draw; of a model that holds copies of ours, parts of
    the originals. Their error goes on even if the model catches it.
    """

    def __init__(self, model: object) -> None:
        self._look, self._strays = _look_at(model), list[InputError]()
        self._hook: RemovableHandle | None = None

    def __enter__(self) -> None:
        if self._look is not None:
            self._thread = threading.get_ident()
            self._hook = register_module_forward_pre_hook(self._before)

    def _before(self, part: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != self._thread:
            return
        try:
            self._look(part)  # type: ignore[misc]
        except InputError as error:
            self._strays.append(error)
            raise

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._hook is not None:
            self._hook.remove()
        if self._strays:
            raise self._strays[0]
        if isinstance(error, TypeError) and "forward() missing" in str(error):
            raise InputError(NEEDS.format(error)) from error


def check_channels(model: Callable[[Tensor], Any], x: Tensor) -> None:
    """Raise InputError where a model refuses images, and takes the same ones in gray, or in color."""
    count = x.shape[1] if x.ndim == 4 else 0
    if count not in (1, 3):
        return
    some, other = x[:2].detach(), 4 - count
    turned = some.mean(1, keepdim=True) if count == 3 else some.expand(-1, 3, -1, -1)
    if not _takes(model, some) and _takes(model, turned):
        write = "x.mean(1, keepdim=True)" if count == 3 else "x.expand(-1, 3, -1, -1)"
        raise InputError(CHANNELS.format(other, "s" * (other > 1), count, other, other, write))


def _takes(model: Callable[[Tensor], Any], x: Tensor) -> bool:
    try:
        with torch.no_grad(), generators_kept(x.device):
            model(x.clone())
    except Exception:  # models raise anything
        return False
    return True


def _look_at(model: object) -> Look | None:
    """Return what raises InputError for a module that must not run; None where all may."""
    if not isinstance(model, nn.Module):
        return partial(_refuse_training, set())
    parts = barred(model)
    return partial(refuse, parts) if parts else None


def _refuse_training(seen: set[nn.Module], root: nn.Module) -> None:
    """Refuse a module that a function calls if a part of it would learn or drop."""
    if root in seen:  # with the parts of what was called: dropout in a module in eval mode is meant
        return
    parts = list(root.modules())
    for part in parts:
        if part.training and (_learns(part) or (root.training and _drops(part))):
            raise InputError(FUNCTION.format(type(root).__name__, type(part).__name__))
    seen.update(parts)


def _learns(part: nn.Module) -> bool:
    """Return whether it updates statistics in training mode, as a BatchNorm does, a scripted one too."""
    return getattr(part, "running_mean", None) is not None


def _drops(part: Any) -> bool:
    inside = isinstance(part, nn.RNNBase | nn.MultiheadAttention)
    chance: float = part.dropout if inside else part.p if isinstance(part, DROPOUTS) else 0.0
    return chance > 0
