"""Whether a copy of a model calls its own modules alone."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import CodeType, FrameType
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from fastadv._torch import version
from fastadv.engine.arguments import checked_logits
from fastadv.engine.precision import NOTHING, no_autocast
from fastadv.errors import InputError
from fastadv.rng import generators_kept

ORIGINAL = (
    "expected a module that runs its own parts, got one whose copy runs {} of the original; "
    "write its forward as a method that reaches every part through self"
)
UNREGISTERED = (
    "expected registered parts or parts in eval mode, got {} in training mode, which model.eval() does not "
    "change; hold parts in attributes or nn.ModuleList, or call their eval()"
)


_by_grad_mode: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()
GRAD_MODE = frozenset({"is_grad_enabled", "requires_grad", "grad_fn", "is_inference_mode_enabled"})


def has_modes(module: nn.Module) -> bool:
    """Return whether code of the module's class mentions `training`; True where that cannot be read."""
    if isinstance(module, torch.jit.ScriptModule) or "forward" in vars(module):
        return True
    return _class_mentions(type(module), frozenset({"training"}))


def reads_grad_mode(kind: type[nn.Module]) -> bool:
    """Return whether code of a class of modules asks if gradients are followed; torch's is fine."""
    if kind not in _by_grad_mode:
        own = not kind.__module__.startswith("torch.")
        _by_grad_mode[kind] = own and _class_mentions(kind, GRAD_MODE)
    return _by_grad_mode[kind]


def _class_mentions(kind: type, names: frozenset[str]) -> bool:
    bases = [base for base in kind.__mro__ if not issubclass(nn.Module, base)]
    methods = [value for base in bases for name, value in vars(base).items() if name != "__init__"]
    return any(mentions(inspect.unwrap(method), names) for method in methods if callable(method))


def mentions(function: object, names: frozenset[str]) -> bool:
    """Return whether code of a function holds one of the names."""
    code = function if isinstance(function, CodeType) else getattr(function, "__code__", None)
    return isinstance(code, CodeType) and (
        any(name in names for name in (*code.co_names, *code.co_consts) if isinstance(name, str))
        or any(mentions(inner, names) for inner in code.co_consts if isinstance(inner, CodeType))
    )


# for each copy the modules that must not run in it, and why; and the copies in which one might
_barred: WeakKeyDictionary[nn.Module, "WeakKeyDictionary[nn.Module, str]"] = WeakKeyDictionary()
_doubtful: WeakSet[nn.Module] = WeakSet()


def keep_inside(
    copied: nn.Module, originals: Iterable[nn.Module], unregistered: Iterable[nn.Module], doubtful: bool
) -> None:
    """Bar `originals`, and `unregistered` modules in training mode; `doubtful`: code might run the former."""
    barred = _barred[copied] = WeakKeyDictionary[nn.Module, str]()
    for module in originals:
        barred[module] = ORIGINAL
        for other in _barred.get(module, ()):
            barred[other] = ORIGINAL
    for module in unregistered:
        barred[module] = UNREGISTERED
        doubtful = True
    if doubtful:
        _doubtful.add(copied)


@contextmanager
def inside(copied: object) -> Iterator[None]:
    """Raise InputError before a method of a module that is barred from `copied` runs in this thread.

    A forward that reads the model from a global variable or a weak reference cannot be copied: it would run
    the caller's modules in the caller's mode. Python's profile function sees each call before its first line,
    a direct one of `forward` too, which no hook does. Under another profiler there is no check.
    """
    barred = _barred.get(copied) if isinstance(copied, nn.Module) and copied in _doubtful else None
    if not barred or sys.getprofile() is not None:
        yield
        return
    strays: list[InputError] = []

    def watch(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        # reading a weight of the original does no harm: it is the copy's too
        if event != "call" or not code.co_argcount or code.co_name == "__getattr__":
            return
        first = frame.f_locals.get(code.co_varnames[0])
        if isinstance(first, nn.Module) and first in barred:
            name = f"{type(first).__name__}.{code.co_name}"
            strays.append(InputError(f"model: {barred[first].format(name)}"))
            raise strays[0]

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)
    if strays:  # the model caught the error
        raise strays[0]


class CheckedModel:
    """A model whose logits [B, K] are checked, and which may not change its input.

    Its first pass stays `inside`. If that, or the first of another in its place, overwrites the input, both
    are given `copies` from then on.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> None:
        self.model, self._dtype = model, dtype
        self.copies = False
        self._watched = set[bool]()  # whether it was that model, in the first pass of this one and of others
        self._seen: dict[torch.dtype, torch.dtype] = {}

    def meet(self, x: Tensor) -> int:
        """Learn in which dtype the model sees inputs like x; return how many rows that passed.

        It may prepare images in float32 and go on otherwise, so x is cast to the dtype of the weights only
        where it is refused as it is: by two rows, or by all, since some models take one batch size alone.
        """
        own = self._dtype
        if own in (None, x.dtype) or x.dtype in self._seen or not len(x):
            return 0
        passed, few = 0, x[:2]
        for rows, dtype in ((few, x.dtype), (few, own), (x, x.dtype)):
            passed += len(rows)
            if self._takes(rows.detach().to(dtype, copy=True)):
                self._seen[x.dtype] = dtype
                return passed
        self._seen[x.dtype] = own
        return passed

    def _takes(self, x: Tensor) -> bool:
        """Return whether the model accepts x, which no module that is barred may see."""
        with torch.no_grad(), generators_kept(x.device), no_autocast(x.device.type), inside(self.model):
            try:
                self.model(x)
            except Exception:  # models raise anything
                return False
        return True

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the model sees inputs of that dtype."""
        return self._seen.get(dtype, self._dtype or dtype)

    def __call__(
        self,
        x: Tensor,
        other: Callable[[Tensor], Tensor] | None = None,
        lens: AbstractContextManager[object] | None = None,
        stays: bool = False,
    ) -> Tensor:
        """Return the logits at x; with `stays` copied, as the next pass may overwrite them."""
        model = self.model if other is None else other
        own = model is self.model
        first = own not in self._watched and x.shape[0] > 0
        given = x.clone() if first or self.copies else x
        before = version(given)
        with inside(model) if first and own else NOTHING, lens or NOTHING:
            logits = model(given)
        if version(given) != before and not self.copies:
            if not first:
                raise InputError(
                    "model: expected a model that leaves x as it is, got one that writes into it; "
                    "let its forward begin with x = x.clone()"
                )
            self.copies = True
        if first:
            self._watched.add(own)
        logits = checked_logits(logits, x.shape[0])
        return logits.clone() if stays else logits
