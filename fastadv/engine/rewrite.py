"""Rewrites: what a search copy computes in another way than the model as given.

A pass is seen through a `Lens`: the user's own Python runs, and functions of torch in it are replaced.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastadv._torch import is_transformed, without_modes
from fastadv.engine.fold import has_batch_norm
from fastadv.engine.module import device_of

Run = Callable[..., Any]
# Ways to compute functions of torch, which return NotImplemented where they do not suit or gain
Ways = Mapping[Any, Run]
# ways with the names of their rewrites, in the order in which they are tried
Found = tuple[tuple[str, Run], ...]
PLAIN = {Tensor, nn.Parameter, getattr(nn, "Buffer", Tensor)}


class Lens(TorchFunctionMode):
    """Rewrites the calls of one pass, forwards and backwards, in the thread that enters it."""

    def __init__(self, ways: Mapping[Any, Found]) -> None:
        super().__init__()
        self._ways, self.used = ways, set[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # a transform of torch.func knows no rule for what replaces a function
        if func in self._ways and PLAIN.issuperset(types) and not is_transformed():
            for name, way in self._ways[func]:
                result = way(*args, **kwargs)
                if result is not NotImplemented:
                    self.used.add(name)
                    return result
        return func(*args, **kwargs)


def unseen(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a backward whose calls no `Lens` sees, but for those that restore checkpointed tensors."""

    @wraps(backward)
    def run(ctx: Any, *gradients: Tensor) -> Any:
        saved = ctx.saved_tensors
        with without_modes():
            return backward(ctx, saved, *gradients)

    return run


def follows(x: Tensor) -> bool:
    """Return whether a gradient of it is recorded."""
    return torch.is_grad_enabled() and x.requires_grad


@dataclass(frozen=True, eq=False)
class Subject:
    """A model as rewrites judge it, to compute in `dtype`."""

    model: nn.Module
    dtype: torch.dtype | None

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.model) or torch.device("cpu")

    @cached_property
    def convolves(self) -> bool:
        return has_conv2d(self.model)

    @cached_property
    def normalizes(self) -> bool:
        return has_batch_norm(self.model)


def on_cpu(subject: Subject) -> bool:
    return subject.device.type == "cpu"


def convolutions(model: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]


def has_conv2d(model: nn.Module) -> bool:
    return bool(convolutions(model))


@dataclass(frozen=True, eq=False)
class Rewrite:
    """One thing that a search copy may compute in another way."""

    name: str
    note: str  # what `Frozen.notes` say once it was used
    applies: Callable[[Subject], bool]
    # ways, or what makes them for a dtype
    replace: Ways | Callable[[torch.dtype | None], Ways] = field(default_factory=dict)
    needs: str = ""  # what the machine must have, beyond a CPU


class Rewriting:
    """How the passes of one model, which computes in `dtype`, are rewritten."""

    def __init__(self, rewrites: Iterable[Rewrite], dtype: torch.dtype | None) -> None:
        self.notes, self._ways = dict[str, str](), dict[Any, Found]()
        for rewrite in rewrites:
            self.notes[rewrite.name] = rewrite.note
            ways = rewrite.replace(dtype) if callable(rewrite.replace) else rewrite.replace
            for function, way in ways.items():
                self._ways[function] = (*self._ways.get(function, ()), (rewrite.name, way))

    def __bool__(self) -> bool:
        return bool(self._ways)

    def lens(self) -> Lens | None:
        """Return what one pass is seen through; None where nothing is replaced."""
        return Lens(self._ways) if self._ways else None
