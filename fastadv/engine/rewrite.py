"""Rewrites: what a search copy computes in another way than the model as given.

A pass is seen through a `Lens`: the user's own Python runs, and functions of torch in it are replaced.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastadv._torch import is_transformed, without_modes
from fastadv.engine.copying.fold import Folds, Promises, Watch, has_batch_norm, is_scripted
from fastadv.engine.copying.twin import device_of

Run = Callable[..., Any]
# of functions of torch, ways to compute them, which return NotImplemented where they do not suit or gain
Ways = Mapping[Any, Run]
# ways with the names of their rewrites, in the order in which they are tried
Found = tuple[tuple[str, Run], ...]
PLAIN = (Tensor, nn.Parameter, getattr(nn, "Buffer", Tensor))
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

    def __init__(self, ways: Mapping[Any, Found], reads: Promises | Watch | None) -> None:
        super().__init__()
        self._ways, self._reads = ways, reads
        self.used: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reads = self._reads
        if reads is not None and reads.open and not _is_metadata(func):
            kept = reads.kept(func, args, kwargs)
            if kept is not None:
                return kept
        ways = self._ways.get(func, ())
        named = "weight" in kwargs or "bias" in kwargs
        layer = reads is not None and func in Folds.layers and not named
        # a transform of torch.func knows no rule for what replaces a function
        if not (ways or layer) or any(kind not in PLAIN for kind in types) or is_transformed():
            return func(*args, **kwargs)
        if reads is None or not layer:
            return self._made(func, ways, args, kwargs)
        pair = reads.folds.pair(args)
        if pair is None:
            return reads.made(func, args, None, self._made(func, ways, args, kwargs))
        made = self._made(func, ways, pair.folded(args), kwargs)
        self.used.append(Folds.name)
        return reads.made(func, args, pair, made)

    def _made(self, func: Any, ways: Found, args: Any, kwargs: Any) -> Any:
        for name, way in ways:
            made = way(*args, **kwargs)
            if made is not NotImplemented:
                self.used.append(name)
                return made
        return func(*args, **kwargs)

    def finish(self, logits: object, replays: bool = False) -> None:
        """Raise Refused where a folded layer was not followed by its BatchNorm, after all."""
        if self._reads is not None:
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
    """A model as rewrites judge it, to compute in `dtype`; `exact`: no logit may change by a bit."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None, exact: bool = False) -> None:
        self.model, self.dtype, self.exact = model, dtype, exact

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


def may_round(subject: Subject) -> bool:
    """Return whether it runs on the CPU, and logits may change by rounding."""
    return subject.on_cpu and not subject.exact


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

    def __init__(self, rewrites: Iterable[Rewrite] = (), subject: Subject | None = None) -> None:
        self._made = {} if subject is None else {each: each.ways(subject) for each in rewrites}
        folded = subject is not None and any(rewrite.name == Folds.name for rewrite in self._made)
        self.folds = Folds(subject.model) if folded and subject is not None else None
        self._arrange()

    def _arrange(self) -> None:
        ways: dict[Any, list[tuple[str, Run]]] = {}
        for rewrite, made in self._made.items():
            for function, way in made.items():
                ways.setdefault(function, []).append((rewrite.name, way))
        self.ways = {function: tuple(found) for function, found in ways.items()}
        self.names = [rewrite.name for rewrite in self._made]
        self.exact = all(rewrite.exact for rewrite in self._made)

    def __bool__(self) -> bool:
        return bool(self.ways) or self.folds is not None

    def without(self, *names: str) -> "Rewriting":
        fewer = copy(self)
        fewer._made = {rewrite: made for rewrite, made in self._made.items() if rewrite.name not in names}
        fewer.folds = None if Folds.name in names else self.folds
        fewer._arrange()
        return fewer

    def lens(self) -> Lens:
        """Return what one pass is seen through."""
        return Lens(self.ways, Promises(self.folds) if self.folds is not None else None)

    def watching(self, watch: Watch) -> Lens:
        """Return what the pass is seen through that tells what may be folded.

        Ways that round would keep what they make of weights that are not folded yet.
        """
        return Lens(self.without(*(rewrite.name for rewrite in self._made if not rewrite.exact)).ways, watch)

    def notes(self, used: Iterable[str]) -> list[str]:
        names = set(used)
        return [rewrite.note for rewrite in self._made if rewrite.name in names and rewrite.note]
