"""What a pass is seen through: the user's own Python runs, and functions of torch in it are replaced."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastadv._torch import is_transformed, without_modes
from fastadv.engine.copying.fold import Folds, Promises, Watch

Run = Callable[..., Any]


class Way(NamedTuple):
    """A way to compute a function of torch, which may decline; `gains` tells whether it is faster."""

    run: Run
    gains: Run | None = None


# ways with the names of their rewrites, in the order in which they are tried
Found = tuple[tuple[str, Way], ...]
Ways = Mapping[Any, Found]  # of each function of torch
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

    compared: with the model, so every way that suits is taken, even if it gains nothing: a later pass may
    take it. used: (number of the call, name of the rewrite), in order.
    """

    def __init__(self, ways: Ways, reads: Promises | Watch | None, compared: bool = False) -> None:
        super().__init__()
        self._ways, self._reads, self._compared = ways, reads, compared
        self.used: list[tuple[int, str]] = []
        self._calls = 0

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
        self._calls += 1
        if reads is None or not layer:
            return self._made(func, ways, args, kwargs)
        pair = reads.folds.pair(args)
        if pair is None:
            return reads.made(func, args, None, self._made(func, ways, args, kwargs))
        made = self._made(func, ways, pair.folded(args), kwargs)
        self.used.append((self._calls, Folds.name))
        return reads.made(func, args, pair, made)

    def _made(self, func: Any, ways: Found, args: Any, kwargs: Any) -> Any:
        for name, way in ways:
            if way.gains is None or self._compared or way.gains(*args, **kwargs) is True:
                made = way.run(*args, **kwargs)
                if made is not NotImplemented:
                    self.used.append((self._calls, name))
                    return made
        return func(*args, **kwargs)

    def finish(self, logits: object, replays: bool = False) -> None:
        """Raise Refused where a folded layer was not followed by its BatchNorm, after all."""
        if self._reads is not None:
            self._reads.finish(logits, replays)


def unseen(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a backward whose calls no `Lens` sees, from `backward(ctx, saved tensors, *gradients)`.

    A lens does see what a checkpoint computes again to restore the saved tensors.
    """

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
