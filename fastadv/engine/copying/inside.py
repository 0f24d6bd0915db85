"""Whether a copy of a model calls its own modules alone."""

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import CodeType, FrameType
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from fastadv._tf32 import without_cudnn
from fastadv._torch import COMPILED_FUNCTION, version
from fastadv.engine.arguments import checked_logits
from fastadv.engine.copying.closures import reachable
from fastadv.engine.copying.strays import read_by
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
RECURRENT = "RNN backward can only be called in training mode"  # what torch raises
TRAINING = (
    "expected a function that runs modules in eval mode, got one with {} in training mode, in which {} would "
    "learn from the attack or draw random numbers; call its eval(), or pass the module"
)


_by_grad_mode: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()
GRAD_MODE = frozenset({"is_grad_enabled", "requires_grad", "grad_fn", "is_inference_mode_enabled"})


def has_modes(module: nn.Module) -> bool:
    """Return whether code of the module's class mentions `training`; True where that cannot be read."""
    if isinstance(module, torch.jit.ScriptModule) or "forward" in vars(module):
        return True
    return _class_mentions(type(module), frozenset({"training"}))


def reads_mode(module: nn.Module) -> bool:
    """Return whether what the module itself computes may depend on its mode."""
    if hasattr(module, "running_mean"):  # of a scripted BatchNorm, too
        return module.running_mean is not None
    named = (getattr(module, name, None) for name in ("p", "dropout", "drop_prob"))
    chances = [each for each in named if isinstance(each, int | float)]
    if isinstance(module, nn.RNNBase) and module.num_layers == 1:
        return False
    # others of torch's take another way to the same values
    same = type(module).__module__.startswith("torch.") and not isinstance(module, nn.RReLU)
    return has_modes(module) and (any(chances) if chances else not same)


def trains(root: nn.Module, function: object) -> str | None:
    """Return why the module `root` may not run in a function: it learns, or draws numbers unasked."""
    for part in root.modules():
        if part.training and reads_mode(part):
            around = [root, *(each for each in reachable(function) if isinstance(each, nn.Module))]
            asked = any(part in module.modules() for module in around if not module.training)
            if not asked or next(part.buffers(recurse=False), None) is not None:
                return TRAINING.format(type(root).__name__, type(part).__name__)
    return None


def reads_grad_mode(kind: type[nn.Module]) -> bool:
    """Return whether code of a class of modules asks if gradients are followed; torch's is fine."""
    if kind not in _by_grad_mode:
        own = not kind.__module__.startswith("torch.")
        _by_grad_mode[kind] = own and _class_mentions(kind, GRAD_MODE)
    return _by_grad_mode[kind]


def stays_in_training(module: nn.Module) -> bool:
    """Return whether a copy keeps it in training mode: a recurrent layer to which modes are the same."""
    if not isinstance(module, nn.RNNBase) or reads_mode(module) or not on_gpu(module):
        return False  # cuDNN differentiates no other
    own = [base for base in type(module).__mro__ if not base.__module__.startswith("torch.")]
    return not _class_mentions(type(module), frozenset({"training"}), own)


def on_gpu(module: nn.Module) -> bool:
    return any(weight.is_cuda for weight in module.parameters(recurse=False))


def _class_mentions(kind: type, names: frozenset[str], among: Collection[type] = ()) -> bool:
    bases = [base for base in among or kind.__mro__ if not issubclass(nn.Module, base)]
    methods = [value for base in bases for name, value in vars(base).items() if name != "__init__"]
    return any(mentions(inspect.unwrap(method), names) for method in methods if callable(method))


def mentions(function: object, names: frozenset[str]) -> bool:
    """Return whether code of a function holds one of the names."""
    code = function if isinstance(function, CodeType) else getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return False
    return not names.isdisjoint((*code.co_names, *code.co_consts)) or any(
        mentions(inner, names) for inner in code.co_consts
    )


WRITES = (
    "model: expected a model that leaves x as it is, got one that writes into it; "
    "let its forward begin with x = x.clone()"
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
    a direct one of `forward` too, which no hook does. Under another profiler there is no check. The modules
    that a function runs are the caller's, and are barred in training mode.
    """
    function = not isinstance(copied, nn.Module)
    barred = _barred[copied] if isinstance(copied, nn.Module) and copied in _doubtful else {}
    if not (barred or function) or sys.getprofile() is not None:
        yield
        return
    strays: list[InputError] = []
    known = set[nn.Module]()

    def check(why: str | None) -> None:
        if why is not None:
            strays.append(InputError(f"model: {why}"))
            raise strays[0]

    compiled = getattr(copied, COMPILED_FUNCTION, None) if function else None
    for value in () if compiled is None else (compiled, *read_by(compiled)):  # whose calls are not seen
        for part in reachable(value):
            if isinstance(part, nn.Module):
                check(trains(part, copied))

    def watch(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        # reading a weight of the original does no harm: it is the copy's too
        if event != "call" or not code.co_argcount or code.co_name == "__getattr__":
            return
        first = frame.f_locals.get(code.co_varnames[0])
        if not isinstance(first, nn.Module) or first in known:
            return
        if first in barred:
            check(barred[first].format(f"{type(first).__name__}.{code.co_name}"))
        # of torch's own methods all others look, or change modes; `reset_parameters` makes a part
        own = hasattr(type(first), code.co_name) and not hasattr(nn.Module, code.co_name)
        own = own and not code.co_name.startswith("reset_")
        if function and (own or code.co_name in ("forward", "_wrapped_call_impl")):
            check(trains(first, copied))
            known.update(first.modules())

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)
    if strays:  # the model caught the error
        raise strays[0]


class CheckedModel:
    """A model whose logits [B, K] are checked; where a first pass writes into its input, it gets `copies`."""

    def __init__(self, model: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> None:
        self.model, self._dtype = model, dtype
        self.copies = False
        self._pairs = False  # whether a single row passes twice
        self.kernels: Callable[[], AbstractContextManager[None]] = nullcontext
        self._watched = set[bool]()  # whether it was that model, in the first pass of this one and of others
        self._seen: dict[torch.dtype, torch.dtype] = {}

    @property
    def plain(self) -> bool:
        """Whether passes are those of the model itself, after the first."""
        return not (self.copies or self._pairs) and self.kernels is nullcontext

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
        with inside(model) if first and own else NOTHING, lens or NOTHING, self.kernels():
            logits = model(given) if len(given) != 1 else self._alone(model, given)
        if version(given) != before and not self.copies:
            if not first:
                raise InputError(WRITES)
            self.copies = True
        if first:
            self._watched.add(own)
        logits = checked_logits(logits, x.shape[0])
        return logits.clone() if stays else logits

    def _alone(self, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return model(x) of one row; where it fails on that, as one that squeezes may, of two equal rows."""
        if self._pairs:
            return model(torch.cat([x, x]))[:1]
        before = version(x)
        try:
            return model(x)
        except Exception as error:  # models raise anything
            # equal rows have no statistics either
            if isinstance(error, InputError) or "more than 1 value" in str(error) or version(x) != before:
                raise
            with suppress(Exception):
                logits = model(torch.cat([x, x]))[:1]
                self._pairs = True
                return logits
            raise

    @contextmanager
    def differentiated(self) -> Iterator[None]:
        """Leave cuDNN inside and in later passes, once it has refused to differentiate a recurrent layer."""
        try:
            with self.kernels():
                yield
        except RuntimeError as error:
            if RECURRENT in str(error):
                self.kernels = without_cudnn
            raise
