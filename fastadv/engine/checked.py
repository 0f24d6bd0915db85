"""CheckedModel: passes of the model as given. Logits are checked, and first passes are watched."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from fastadv._tf32 import without_cudnn
from fastadv._torch import version
from fastadv.engine.arguments import checked_logits
from fastadv.engine.copying.copier import eval_copy
from fastadv.engine.copying.first_pass import stays_inside
from fastadv.engine.copying.reach import modules_in
from fastadv.engine.copying.written import Trace
from fastadv.engine.cpu.norms import mend_graph
from fastadv.engine.precision import NOTHING, no_autocast
from fastadv.errors import InputError
from fastadv.rng import generators_kept

RECURRENT = "RNN backward can only be called in training mode"  # what torch raises
WRITES = (
    "model: expected a model that leaves x as it is, got one that writes into it; "
    "let its forward begin with x = x.clone()"
)
TORCH = "torch.nn.modules."  # whose parts are told nothing between calls
CALLED = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"
Model = Callable[[Tensor], Tensor]


class Known:
    """What passes of a model have shown, while its parts, their attributes and hooks are the same.

    quiet: of which passes nothing is to be feared, by (uncopied, with a gradient); writes: whether one wrote.
    """

    def __init__(self, kinds: tuple[Hashable, ...] = (), others: Iterable[nn.Module] = ()) -> None:
        self.kinds, self.quiet, self.writes = kinds, set[tuple[bool, bool]](), False
        self._others = list(map(ref, others))  # modules that are no parts, as one in a plain list

    def learns(self) -> bool:
        """Return whether a module that `eval` does not reach is in training mode."""
        others = (other() for other in self._others)
        return any(other is not None and other.training for other in others)


_known: "WeakKeyDictionary[nn.Module, Known]" = WeakKeyDictionary()


def known_of(model: nn.Module, parts: list[nn.Module]) -> Known:
    own, types = [vars(part) for part in parts], list(map(type, parts))
    foreign = [each for each, kind in zip(own, types, strict=True) if not kind.__module__.startswith(TORCH)]
    # no values themselves, which may hold the model
    values = map(id, chain.from_iterable(each.values() for each in foreign))
    hooks = (key for each in own for name in CALLED if (held := each.get(name)) for key in held)
    kinds = *types, *values, *hooks, *(id(each["forward"]) for each in own if "forward" in each)
    known = _known.get(model)
    if known is None or known.kinds != kinds or known.learns():
        known = _known[model] = Known(kinds, {*modules_in(model)}.difference(parts))
    return known


class CheckedModel:
    """A model whose logits [B, K] are checked.

    Its first pass in each grad mode is watched: it must run no modules of others. Where it writes into its
    input, it gets `copies` from then on; where a model that is the caller's own writes anything else, a copy
    of it takes its place. The first passes of the caller's own model are therefore made by a copy.

    known: what passes of that model have shown before. uncopied: whether it is the caller's own.
    """

    def __init__(
        self, model: Model, dtype: torch.dtype | None = None, known: Known | None = None,
        uncopied: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.dtype, self._known, self.uncopied = model, dtype, known or Known(), uncopied
        self.call: Callable[[Model, Tensor], Any] | None = None  # instead of the model's own
        self.copies = False
        self.mends_rows = False  # whether torch may get the gradient of a single row wrong
        self._pairs = False  # whether a single row passes twice
        self.kernels: Callable[[], AbstractContextManager[None]] = nullcontext
        self._watched = set[bool]()  # whether a gradient was followed in a first pass
        self._trace: Trace | None = None  # of a first pass whose backward pass is still to come
        self._seen: dict[torch.dtype, torch.dtype] = {}

    def is_bare(self, rows: int) -> bool:
        """Return whether passes of so many rows with a gradient need the model's own call alone."""
        watched = True in self._watched
        mended = rows == 1 and self.mends_rows
        return watched and not (self.copies or self._pairs or mended) and self.kernels is nullcontext

    def meet(self, x: Tensor) -> int:
        """Learn in which dtype the model sees inputs like x; return how many rows that passed.

        It may prepare images in float32 and go on otherwise, so x is cast to the dtype of the weights only
        where it is refused as it is: by two rows, or by all, since some models take one batch size alone.
        """
        own = self.dtype
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
        """Return whether the model accepts x."""
        with torch.no_grad(), generators_kept(x.device), no_autocast(x.device.type):
            try:
                self._first(self._run, x)
            except Exception:  # models raise anything
                return False
        return True

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the model sees inputs of that dtype."""
        return self._seen.get(dtype, self.dtype or dtype)

    def __call__(
        self,
        x: Tensor,
        lens: AbstractContextManager[object] | None = None,
        stays: bool = False,
    ) -> Tensor:
        """Return the logits at x; with `stays` copied, as the next pass may overwrite them."""
        model, follows = self.model, torch.is_grad_enabled()
        first = follows not in self._watched and x.shape[0] > 0
        given = x.clone() if first or self.copies else x
        before = version(given)
        with lens or NOTHING, self.kernels():
            if first:
                logits = self._first(self._pass, given)
            elif len(given) == 1 or self.call is not None:
                logits = self._pass(model, given)
            else:
                logits = model(given)
        if version(given) != before and not self.copies:
            if not first:
                raise InputError(WRITES)
            self.copies = True
        # a pass that may have no backward pass is watched again
        if first and self.model is model and self._trace is None:
            self._watched.add(follows)
        logits = checked_logits(logits, x.shape[0])
        if self.mends_rows and len(x) == 1 and logits.requires_grad:
            self.mends_rows = mend_graph(logits)
        return logits.clone() if stays else logits

    def _first(self, run: Callable[[Model, Tensor], Tensor], x: Tensor) -> Tensor:
        """Return run(model, x), a pass that is watched, unless another one of the kind was."""
        model, kind, self._trace = self.model, (self.uncopied, torch.is_grad_enabled()), None
        if kind in self._known.quiet:
            return run(model, x)
        if not self.uncopied:
            with stays_inside(model):
                logits = run(model, x)
            self._known.quiet.add(kind)
            return logits
        try:
            copied = eval_copy(cast(nn.Module, model), follow=None, gradients=True)
        except InputError:  # one that cannot be copied is not watched
            self._known.quiet.add(kind)
            return run(model, x)
        trace = Trace(copied)
        with stays_inside(copied, original=True):
            logits = run(copied, x)
        if trace.written():
            self.use_copy(copied)
        elif kind[1]:
            self._trace = trace  # its backward pass is still to come
        else:
            self._known.quiet.add(kind)
        return logits

    def _run(self, model: Model, x: Tensor) -> Any:
        return model(x) if self.call is None else self.call(model, x)

    def use_copy(self, copied: nn.Module | None = None) -> None:
        """Go on with a copy of a model that writes."""
        self.model = copied or eval_copy(cast(nn.Module, self.model), follow=None)
        for weight in self.model.parameters():
            weight.requires_grad_(False)
        self.uncopied, self._known.writes = False, True
        self._watched.clear()

    def _pass(self, model: Model, x: Tensor) -> Any:
        """Return the logits of x; where one row fails, as in a model that squeezes, by two equal rows."""
        if len(x) != 1:
            return self._run(model, x)
        if self._pairs:
            return self._run(model, torch.cat([x, x]))[:1]
        before = version(x)
        try:
            return self._run(model, x)
        except Exception as error:  # models raise anything
            # equal rows have no statistics either
            if isinstance(error, InputError) or "more than 1 value" in str(error) or version(x) != before:
                raise
            with suppress(Exception):
                logits = self._run(model, torch.cat([x, x]))[:1]
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
        trace, self._trace = self._trace, None
        if trace is not None:
            if trace.written():
                self.use_copy()
            else:
                self._known.quiet.add((True, True))
