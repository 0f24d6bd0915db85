"""What a pass is seen through: the user's own Python runs, and functions of torch in it are replaced."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastadv._torch import is_transformed, without_modes
from fastadv.engine.copying.fold import Folds, Promises, Watch

# takes what the function takes; NotImplemented where it does not suit. A Choice may be slower
Run = Callable[..., Any]


class Choice(NamedTuple):
    """A way to replace a function of torch that is faster for some calls only.

    run: takes what the function takes. expected: whether it is faster for such arguments; NotImplemented
    where it does not suit.
    """

    run: Callable[..., Any]
    expected: Callable[..., Any]


Way = Run | Choice
# ways with the names of their rewrites, in the order in which they are tried
Found = tuple[tuple[str, Way], ...]
Ways = Mapping[Any, Found]  # of each function of torch
Chosen = dict[Any, Found]  # by the kind of a call: the one that is taken, or none
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

    def __init__(
        self,
        ways: Ways,
        reads: Promises | Watch | None,
        chosen: Chosen | None = None,
        compared: bool = False,
    ) -> None:
        """Take what is rewritten, and what was `chosen` so far.

        In passes that are `compared` with the model every way is taken that suits: there whatever a search
        may choose is to be seen.
        """
        super().__init__()
        self._ways, self._reads, self._compared = ways, reads, compared
        self._chosen = {} if chosen is None else chosen
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
        chooses = len(ways) > 1 or (bool(ways) and isinstance(ways[0][1], Choice))
        kind = _kind(func, args, kwargs) if chooses else None
        known = kind is not None and kind in self._chosen
        for name, way in self._chosen[kind] if known else ways:
            if isinstance(way, Choice):
                if not (known or self._compared):
                    expected = way.expected(*args, **kwargs)
                    if expected is NotImplemented or not expected:
                        continue
                made = way.run(*args, **kwargs)
            else:
                made = way(*args, **kwargs)
            if made is not NotImplemented:
                self.used.append((self._calls, name))
                if kind is not None and not known:
                    self._chosen[kind] = ((name, way),)
                return made
        if kind is not None and not known:
            self._chosen[kind] = ()
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


def follows(x: Tensor) -> bool:
    """Return whether a gradient of it is recorded."""
    return torch.is_grad_enabled() and x.requires_grad


def _kind(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what ways are chosen by, of a call with a tensor and perhaps a weight; None of others.

    An id may be another tensor's later: then the way chosen declines what does not suit it, and none is as
    right.
    """
    x, *others = args or (None,)
    own: Any
    if others and isinstance(others[0], Tensor):
        own = id(others[0]) if isinstance(others[0], nn.Parameter) and not kwargs else None
    else:
        own = *others, *kwargs.items()
    if own is None or not isinstance(x, Tensor):
        return None
    how = follows(x), torch.is_autocast_enabled("cpu")
    return func, own, x.dtype, x.shape, x.stride(), *how


def _is_metadata(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in PROPERTIES
    return name in METADATA
