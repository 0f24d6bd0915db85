"""Rewrites: what a search copy computes in another way than the model as given.

A pass is seen through a `Lens`: the user's own Python runs, and functions of torch in it are replaced.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastadv._torch import is_transformed, without_modes
from fastadv.engine.copying.fold import Folds, Promises, Reads, Watch, has_batch_norm, is_scripted
from fastadv.engine.module import device_of

Run = Callable[..., Any]
# of functions of torch, ways to compute them, which return NotImplemented where they do not suit or gain
Ways = Mapping[Any, Run]
# ways with the names of their rewrites, in the order in which they are tried
Found = tuple[tuple[str, Run], ...]
PLAIN = {Tensor, nn.Parameter, getattr(nn, "Buffer", Tensor)}
# what reads no value of a tensor
METADATA = frozenset((
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "storage_offset"),
    *("is_contiguous", "is_floating_point", "is_complex", "get_device", "__len__", "__hash__"),
))  # fmt: skip
PROPERTIES = frozenset((
    *("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf", "itemsize", "nbytes"),
    *("is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_mkldnn", "names", "_version"),
))  # fmt: skip


class Lens(TorchFunctionMode):
    """Rewrites the calls of one pass, forwards and backwards, in the thread that enters it.

    used: names of the rewrites, in the order of their calls.
    """

    def __init__(self, ways: Mapping[Any, Found], reads: Reads) -> None:
        super().__init__()
        self._ways, self._reads, self.used = ways, reads, reads.used

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._reads.open and not _is_metadata(func):
            read = self._reads.read(func, args, kwargs)
            if read is not None:
                return read
        # a transform of torch.func knows no rule for what replaces a function
        if func not in self._ways or not PLAIN.issuperset(types) or is_transformed():
            return func(*args, **kwargs)
        run = partial(self._run, func, kwargs)
        if func in Folds.layers and "bias" not in kwargs:
            return self._reads.layer(args, run)
        return run(args)

    def _run(self, func: Any, kwargs: dict[str, Any], args: tuple[Any, ...]) -> Any:
        for name, way in self._ways[func]:
            made = way(*args, **kwargs)
            if made is not NotImplemented:
                self.used.append(name)
                return made
        return func(*args, **kwargs)

    def finish(self, logits: object, replays: bool = False) -> None:
        """Raise Refused where a folded layer was not followed by its BatchNorm, after all."""
        self._reads.finish(logits, replays)


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


def _is_metadata(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in PROPERTIES
    return name in METADATA


class Subject:
    """A model as rewrites judge it, to compute in `dtype`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        self.model, self.dtype = model, dtype

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.model) or torch.device("cpu")

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @cached_property
    def convolves(self) -> bool:
        return has_conv2d(self.model)

    @cached_property
    def normalizes(self) -> bool:
        """Whether it holds a BatchNorm whose reading of tensors can be seen."""
        return has_batch_norm(self.model) and not is_scripted(self.model)


def on_cpu(subject: Subject) -> bool:
    return subject.on_cpu


def has_conv2d(model: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in model.modules())


@dataclass(frozen=True, eq=False)
class Rewrite:
    """One thing that a search copy may compute in another way.

    note: what `Frozen.notes` say once it was used. replace: ways, or what makes them for one model. exact:
    logits stay as they are. needs: what the machine must have, beyond a CPU.
    """

    name: str
    note: str
    applies: Callable[[Subject], bool]
    replace: Ways | Callable[[Subject], Ways] = field(default_factory=dict)
    exact: bool = False
    needs: str = ""

    def ways(self, subject: Subject) -> Ways:
        return self.replace(subject) if callable(self.replace) else self.replace


class Rewriting:
    """The rewrites of one model. It never changes: `without` gives another one."""

    def __init__(self, rewrites: Iterable[Rewrite], subject: Subject) -> None:
        self._made = {each: each.ways(subject) for each in rewrites}
        self.model, self.folds = subject.model, Folds(subject.model)
        self._arrange()

    def _arrange(self) -> None:
        self.names = [rewrite.name for rewrite in self._made]
        self.exact = all(rewrite.exact for rewrite in self._made)
        ways: dict[Any, Found] = dict.fromkeys(Folds.layers if Folds.name in self.names else (), ())
        for rewrite, made in self._made.items():
            for function, way in made.items():
                ways[function] = (*ways.get(function, ()), (rewrite.name, way))
        self._ways = ways

    def __bool__(self) -> bool:
        return bool(self._ways)

    def without(self, *names: str) -> "Rewriting":
        fewer = copy(self)
        fewer._made = {rewrite: made for rewrite, made in self._made.items() if rewrite.name not in names}
        fewer._arrange()
        return fewer

    def lens(self) -> Lens:
        """Return what one pass is seen through."""
        return Lens(self._ways, Promises(self.folds) if Folds.name in self.names else Reads())

    def watching(self) -> Lens:
        """Return what the pass is seen through that tells what is folded.

        Ways that round would keep what they make of weights that are not folded yet.
        """
        rough = (rewrite.name for rewrite in self._made if not rewrite.exact and rewrite.name != Folds.name)
        return Lens(self.without(*rough)._ways, Watch(self.folds))

    def notes(self, used: Iterable[str]) -> list[str]:
        names = set(used)
        return [rewrite.note for rewrite in self._made if rewrite.name in names and rewrite.note]
