"""CheckedModel: passes of the model as given. Logits are checked, and first passes are watched."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain, compress, repeat
from operator import itemgetter
from threading import get_ident
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from fastadv._torch import nodes_of, version
from fastadv.engine.arguments import OUTPUTS, Outputs
from fastadv.engine.copying.copier import eval_copy
from fastadv.engine.copying.first_pass import stays_inside
from fastadv.engine.copying.reach import Trace, modules_in
from fastadv.engine.precision import NOTHING, no_autocast, without_cudnn
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
    """What passes of a model have shown, while its parts, their attributes and hooks are the same."""

    def __init__(self, kinds: tuple[Hashable, ...] = (), others: Iterable[nn.Module] = ()) -> None:
        # quiet: what needs no watching, (uncopied, with a gradient)
        self.kinds, self.quiet = kinds, set[tuple[bool, bool]]()
        self.writes = self.copies = False  # into the model; into x
        self._others = list(map(ref, others))  # modules that are no parts, as one in a plain list

    def learns(self) -> bool:
        """Return whether a module that `eval` does not reach is in training mode."""
        others = (other() for other in self._others)
        return any(other is not None and other.training for other in others)


_known: "WeakKeyDictionary[nn.Module, Known]" = WeakKeyDictionary()


def known_of(model: nn.Module, parts: list[nn.Module]) -> Known:
    held, types = list(map(vars, parts)), list(map(type, parts))
    foreign = {kind for kind in set(types) if not kind.__module__.startswith(TORCH)}
    theirs = compress(held, map(foreign.__contains__, types))
    values = chain.from_iterable(map(dict.values, theirs))
    hooks = chain.from_iterable(filter(None, chain.from_iterable(map(itemgetter(*CALLED), held))))
    forwards = map(dict.get, held, repeat("forward"))
    # Values count by their ids, since they may hold the model
    kinds = *types, *hooks, *map(id, values), *map(id, forwards)
    known = _known.get(model)
    if known is None or known.kinds != kinds or known.learns():
        known = _known[model] = Known(kinds, {*modules_in(model)}.difference(parts))
    return known


class CheckedModel:
    """A model whose outputs are checked, and returned as rows [B, K]."""

    # Its first pass in each grad mode is watched, until its backward pass is over. Where it writes into its
    # input, it gets `copies`; where it writes anything else, a copy takes the place of the caller's own.

    def __init__(
        self, model: Model, dtype: torch.dtype | None = None, known: Known | None = None,
        uncopied: bool = False, outputs: Outputs = "classes",
    ) -> None:  # fmt: skip
        self.outputs, self._rows = outputs, OUTPUTS[outputs]
        self.shape: torch.Size | None = None  # of what a sample gave last, where outputs may be any
        self.model, self.dtype, self._known, self.uncopied = model, dtype, known or Known(), uncopied
        self.call: Callable[[Model, Tensor], Any] | None = None  # instead of the model's own
        self.mends_rows = False  # whether torch may get the gradient of a single row wrong
        self._pairs = False  # whether a single row passes twice
        self.kernels: Callable[[], AbstractContextManager[None]] = nullcontext
        # Copies by thread that have made a first pass, whose backward pass is still to come
        self._watched = dict[int, tuple[nn.Module, Trace]]()
        self._seen: dict[torch.dtype, torch.dtype] = {}

    @property
    def copies(self) -> bool:
        """Whether it is given copies of x, into which it writes."""
        return self._known.copies

    def _is_quiet(self, follows: bool) -> bool:
        return (self.uncopied, follows) in self._known.quiet

    def is_bare(self, rows: int) -> bool:
        """Return whether passes of so many rows with a gradient need the model's own call alone."""
        mended = self._pairs or (rows == 1 and self.mends_rows) or self.outputs != "classes"
        return self._is_quiet(True) and not (self.copies or mended) and self.kernels is nullcontext

    def meet(self, x: Tensor) -> int:
        """Learn in which dtype the model sees inputs like x; return how many rows that passed."""
        # It may prepare images in float32 and go on otherwise, so x is cast only where it is refused as it
        # is: by two rows, or by all, since some models take one batch size alone.
        weights = self.dtype
        if weights in (None, x.dtype) or x.dtype in self._seen or not len(x):
            return 0
        passed, few = 0, x[:2]
        for rows, dtype in ((few, x.dtype), (few, weights), (x, x.dtype)):
            passed += len(rows)
            if self._takes(rows.detach().to(dtype, copy=True)):
                self._seen[x.dtype] = dtype
                return passed
        self._seen[x.dtype] = weights
        return passed

    def _takes(self, x: Tensor) -> bool:
        with torch.no_grad(), generators_kept(x.device), no_autocast(x.device.type):
            try:
                self._watch(self._run, x)
            except Exception:  # models raise anything
                return False
        return True

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the model sees inputs of that dtype."""
        return self._seen.get(dtype, self.dtype or dtype)

    def __call__(
        self, x: Tensor, lens: AbstractContextManager[object] | None = None, stays: bool = False
    ) -> Tensor:
        """Return the logits at x; with `stays` copied, as the next pass may overwrite them."""
        first = not self._is_quiet(torch.is_grad_enabled()) and len(x) > 0
        rows = x.clone() if first or self.copies else x
        before = version(rows)
        with lens or NOTHING, self.kernels():
            if first:
                logits = self._watch(self._pass, rows)
            elif len(rows) == 1 or self.call is not None:
                logits = self._pass(self.model, rows)
            else:
                logits = self.model(rows)
        if version(rows) != before and not self.copies:
            if not first:
                raise InputError(WRITES)
            self._known.copies = True
        if self.outputs == "any" and isinstance(logits, Tensor):
            self.shape = logits.shape[1:] if len(x) > 1 or logits.ndim > 1 else logits.shape
        logits = self._rows(logits, x.shape[0])
        if self.mends_rows and len(x) == 1 and logits.requires_grad:
            self.mends_rows = mend_graph(logits)
        return logits.clone() if stays else logits

    def _watch(self, run: Callable[[Model, Tensor], Tensor], x: Tensor) -> Tensor:
        """Return run(model, x), a first pass."""
        model, thread = self.model, get_ident()
        self._watched.pop(thread, None)
        if self.uncopied:
            with suppress(InputError):  # one that cannot be copied is called as it is
                copied = eval_copy(cast(nn.Module, model), follow=None, gradients=True)
                model, self._watched[thread] = copied, (copied, Trace(copied))
        with stays_inside(model):
            logits = run(model, x)
        if thread not in self._watched or not torch.is_grad_enabled():
            self._conclude(torch.is_grad_enabled())
        return logits

    def _conclude(self, follows: bool) -> None:
        """Take what a first pass has shown, which is over."""
        watched = self._watched.pop(get_ident(), None)
        if watched is not None and watched[1].written():
            self.use_copy(watched[0])
        else:
            self._known.quiet.add((self.uncopied, follows))

    def _run(self, model: Model, x: Tensor) -> Any:
        return model(x) if self.call is None else self.call(model, x)

    def use_copy(self, copied: nn.Module | None = None) -> None:
        """Go on with a copy of a model that writes."""
        if copied is None:
            copied = eval_copy(cast(nn.Module, self.model), follow=None)
        for weight in copied.parameters():
            weight.requires_grad_(False)
        self.model, self.uncopied, self._known.writes = copied, False, True

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
        if get_ident() in self._watched:
            self._conclude(True)


def mend_graph(logits: Tensor) -> bool:
    """Make gradients contiguous before normalizations behind the logits; return whether there are any."""
    # torch mixes up the orders of memory of a single image and its gradient (PyTorch 2.13 on a CPU:
    # wrong by 140% to 200% for one row, right for two), as where attention over pixels follows
    norms = [node for node in nodes_of(logits.grad_fn) if "BatchNorm" in type(node).__name__]
    for node in norms:
        node.register_prehook(_contiguous)
    return bool(norms)


def _contiguous(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(gradient if gradient is None else gradient.contiguous() for gradient in gradients)
