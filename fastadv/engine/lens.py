"""What a pass is seen through: the user's own Python runs, and functions of torch in it are replaced."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastadv._torch import is_transformed, without_modes
from fastadv.engine.copying.fold import Folds, Promises, Watch

# takes what the function takes; NotImplemented where it does not suit
Way = Callable[..., Any]
Ways = Mapping[Any, tuple[tuple[str, Way], ...]]  # of each function, with the names of their rewrites
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

    used: (number of the call, name of the rewrite), in order. reads: of the results of folded layers.
    """

    def __init__(self, ways: Ways, reads: Promises | Watch | None, declined: set[Any] | None = None) -> None:
        """Take what is rewritten, and the kinds of calls that all ways have `declined` so far."""
        super().__init__()
        self._ways, self._reads = ways, reads
        self._declined = set() if declined is None else declined
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

    def _made(self, func: Any, ways: tuple[tuple[str, Way], ...], args: Any, kwargs: Any) -> Any:
        known = _kind(func, args, kwargs) if len(ways) > 1 else None
        if known not in self._declined:
            for name, way in ways:
                made = way(*args, **kwargs)
                if made is not NotImplemented:
                    self.used.append((self._calls, name))
                    return made
            if known is not None:
                self._declined.add(known)
        return func(*args, **kwargs)

    def finish(self, logits: object, replays: bool = False) -> None:
        """Raise Refused where a folded layer was not followed by its BatchNorm, after all."""
        if self._reads is not None:
            self._reads.finish(logits, replays)


def unseen(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the backward of a function of this library, from `backward(ctx, saved tensors, *gradients)`.

    No `Lens` looks at what it calls, since each look takes time; at what a checkpoint computes again, to have
    the saved tensors, it does.
    """

    @wraps(backward)
    def run(ctx: Any, *gradients: Tensor) -> Any:
        saved = ctx.saved_tensors
        with without_modes():
            return backward(ctx, saved, *gradients)

    return run


def _kind(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what ways decide by, of a call with a tensor and a weight; None of others.

    An id may be another tensor's later: then the call is not rewritten, which is as right.
    """
    if kwargs or len(args) < 2 or not isinstance(args[1], nn.Parameter):
        return None
    x, follows = args[0], torch.is_grad_enabled() and args[0].requires_grad
    return func, id(args[1]), x.dtype, x.shape, x.stride(), follows, torch.is_autocast_enabled("cpu")


def _is_metadata(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in PROPERTIES
    return name in METADATA
