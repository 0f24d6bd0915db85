"""The search copy of a frozen model: what is copied, and how it passes batches."""

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.arguments import classes_for
from fastadv.engine.bound import Gradient, jacobian, pull
from fastadv.engine.capture import CAPTURED, Captures, graphs_of, in_step, kind_of, passes_alike
from fastadv.engine.checked import CheckedModel
from fastadv.engine.copy import copied, take_values
from fastadv.engine.guard import HALVES, Format
from fastadv.engine.module import as_module, in_words, replaced, unwrap
from fastadv.engine.plain import Plain
from fastadv.engine.precision import Options, no_autocast, rounds_as, to_half
from fastadv.engine.prepared import Directions
from fastadv.engine.rewrite import Lens, Pair, Rewrite, Rewriting, fold
from fastadv.engine.rewrites import CHANNELS_LAST, FOLD, VIEWS, applicable, laid_out, lay_out
from fastadv.engine.room import GRADIENT, JACOBIAN, Parts, mixes_rows, room_of
from fastadv.engine.winograd import WINOGRAD, gains_by_rows
from fastadv.errors import InputError
from fastadv.ops._step import may_be_narrow

T = TypeVar("T")
log = logging.getLogger("fastadv")

LOGITS = "logits"  # a kind of passes beside GRADIENT and JACOBIAN
BEFORE = CHANNELS_LAST, FOLD  # rewrites of a copy that is compiled then
ROWS = 16  # of a batch that are watched and compared
MIXES = "searched as it is: a BatchNorm takes its statistics from the batch"  # notes


class SearchCopy:
    """Logits and gradients by a copy of the model that computes in another way, or by none that is `idle`."""

    # Logits that depend on the rest of a batch may differ in parts of it: in the search, not in the verdict

    eot = 1  # passes of a question

    def __init__(self, plain: Plain, options: Options) -> None:
        self.model, self.module, self.options = plain.model, as_module(plain.source), options
        self.counts = plain.counts
        self.dtype, self.sees, self.weights = plain.dtype, plain.sees, options.half or plain.dtype
        self.half = self.weights in HALVES
        self.ordinary = not (options.special or options.follow)  # for few values the model as given is faster
        self.room, self.lock, self.pairs = room_of(plain.source), RLock(), list[Pair]()
        # dtypes and shapes of samples, with a gradient or not, whose passes were compared with the model's
        self.compared = set[Hashable]()
        self.notes = dict[str, None]()  # in the order in which they came
        self._mixes = self.module is not None and mixes_rows(self.module)
        rewrites = self._rewrites()
        # kinds of passes for which the copy answers, not the model as given; half precision does not tell
        # apart losses that attacks without a gradient compare
        self.kinds = {GRADIENT, JACOBIAN} if self.half else {GRADIENT, JACOBIAN, LOGITS}
        # Statistics of a batch: what a search finds in one is not proved by a part of it
        if self._mixes or not (rewrites or options.special):
            self.kinds.clear()
        elif self.module is not None:
            self._copy(self.module, CHANNELS_LAST in rewrites)
        rewrites = [] if self.idle else rewrites
        self.channels_last, self._folds = CHANNELS_LAST in rewrites, FOLD in rewrites
        self.rewriting = Rewriting(rewrites, self.weights)
        self.checked = CheckedModel(self.model, plain.checked.mends_rows, outputs=options.outputs)
        self.uncompiled = self.checked  # what is compiled, as it is
        wide = WINOGRAD in rewrites and gains_by_rows(cast(nn.Module, self.model))
        self.parts = Parts(None if options.compile else self.model, wide)
        self.notes |= dict.fromkeys(self._first_notes())

    def _rewrites(self) -> list[Rewrite]:
        if self.module is None or self._mixes:
            return []
        rewrites = applicable(self.module, self.weights)
        # a compiler looks at functions for itself
        return [rewrite for rewrite in rewrites if rewrite in BEFORE] if self.options.compile else rewrites

    def _copy(self, module: nn.Module, channels_last: bool) -> None:
        """Go on with a copy, unless there can be none."""
        follow, half = self.options.follow, self.options.half
        try:
            self.model = copied(module, buffers=follow)
        except InputError as error:
            self.leave(str(error))
            return
        # weights made in inference mode could not take part in a gradient
        with torch.inference_mode(False), torch.no_grad():
            if channels_last or half is not None or follow:
                lay_out(self.model, channels_last)
            if half is not None:
                to_half(self.model, half)

    def _first_notes(self) -> list[str]:
        options, bpda = self.options, in_words(replaced(self.module))
        notes = {
            "channels-last": self.channels_last,
            "bfloat16 search": options.precision == "bf16" and not self.idle,
            MIXES: self._mixes,
            "compiled": options.compile and not self.idle,
            CAPTURED: options.cuda_graph is True,
            bpda: bool(bpda),
        }
        return [note for note, holds in notes.items() if holds]

    @property
    def idle(self) -> bool:
        """Whether the model as given answers alone."""
        return not self.kinds

    def layout(self, x: Tensor) -> Tensor:
        return laid_out(x, self.channels_last)

    def leave(self, why: str) -> None:
        """Let the model as given search alone."""
        self.kinds = set()
        self.warn(f"fell back to the model as given: {why}")

    def warn(self, note: str, instead_of: str = "") -> None:
        """Take a note that the user should see once; `instead_of` is one that no longer holds."""
        if note not in self.notes:
            log.warning("freeze: %s", note)
        for old in (note, instead_of):
            self.notes.pop(old, None)
        self.notes[note] = None

    def prepare(self, x: Tensor, plain: Plain) -> None:
        """Fold what a pass of x shows, and compile."""
        if self._folds:
            plain.forwards += len(x)
            both = cast(nn.Module, self.model), cast(nn.Module, self.module)
            # these alone: others would keep what they make of weights that are not folded yet
            views = Rewriting([VIEWS] if self.channels_last else [], self.weights)
            with suppress(Exception), torch.enable_grad():  # what fails is told where it is compared
                self.pairs = fold(*both, lambda: self.attached(x, self.checked, views)[1])
            self.notes[f"folded {len(self.pairs)} BatchNorm"] = None
        if self.options.compile:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
            self.model = torch.compile(self.model)
            self.checked = CheckedModel(self.model, plain.checked.mends_rows, outputs=self.options.outputs)
        if not (self.rewriting or self.pairs or self.options.special):
            self.kinds = set()

    def refresh(self) -> None:
        """Take the current values of a model that trains."""
        if not self.idle:
            with torch.inference_mode(False), torch.no_grad():
                take_values(unwrap(cast(nn.Module, self.model)), cast(nn.Module, self.module))
                for pair in self.pairs:
                    pair.refresh()

    def in_parts(self, kind: str, step: Callable[..., T], x: Tensor, *rows: Any) -> T:
        """Return step(x, *rows) of parts in turn that are fast and fit into memory."""
        return self.room.passes(kind, step, x, *rows, apart=lambda: True, most=self.parts.full(x))

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of one pass of x; a step of `in_parts`."""
        with self._seen_by(x, self.rewriting) as lens:
            logits = self.checked(self._ready(x), lens=lens)
        return logits if logits.requires_grad else logits.clone()  # as what stays

    def __call__(self, x: Tensor) -> Tensor:
        self.counts.forwards += len(x)
        return self.in_parts(LOGITS, self.logits, x)

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        y, targets = classes_for(loss, y, targets)
        self.counts.forwards += len(x)
        self.counts.backwards += len(x)
        step = partial(self._gradient, loss=loss, direction=direction)
        if callable(loss):  # it may hold one value for each sample of the batch
            return step(x, y, targets)
        return self.in_parts(GRADIENT, step, x, y, targets)

    def _gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, loss: losses.Loss, direction: bool
    ) -> Gradient:
        leaf, attached = self.attached(x, self.checked)
        # copied, since they may be a part of x itself
        logits = attached.detach().clone()
        value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
        gradient = self.pull(leaf, attached, by_logits)
        return value, logits, gradient if direction and may_be_narrow(gradient, x) else gradient.to(x.dtype)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        return self.room.jacobian(partial(jacobian, self, reduce), x, directions, self, lambda: True)

    def is_compared(self, x: Tensor, kind: str = GRADIENT) -> bool:
        """Return whether passes of rows like x were compared with the model's; in a graph none can be."""
        return kind_of_pass(x, kind) in self.compared or in_step() or not len(x)

    def formats(self, device: torch.device) -> list[Format]:
        """Return the formats by which logits of the copy and of the model as given round."""
        return [rounds_as(format, device) for format in (self.dtype, self.weights)]

    def captures(self, x: Tensor) -> Captures | None:
        model = self.model
        if not isinstance(model, nn.Module) or not self.is_compared(x):
            return None
        kind, alike = kind_of(unwrap(model)), partial(passes_alike, unwrap(model), self.logits, x)
        return Captures(graphs_of(self), kind, (model, self.rewriting), alike) if kind else None

    def _ready(self, x: Tensor) -> Tensor:
        return self.layout(x).to(self.sees(x.dtype) if self.weights == self.dtype else self.weights)

    @contextmanager
    def _seen_by(self, x: Tensor, rewriting: Rewriting) -> Iterator[Lens | None]:
        """Compute as the copy does inside, and note what the lens that comes has rewritten."""
        lens = rewriting.lens()
        with no_autocast(x.device.type):
            yield lens
        if lens is not None:
            used = (note for name, note in rewriting.notes.items() if note and name in lens.used)
            self.notes |= dict.fromkeys(used)

    def attached(
        self, x: Tensor, checked: CheckedModel, rewriting: Rewriting | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return x as a leaf, and logits that follow it."""
        leaf = self._ready(x).detach().requires_grad_()
        with self._seen_by(x, self.rewriting if rewriting is None else rewriting) as lens:
            return leaf, checked(leaf, lens=lens)

    def followed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x as a leaf, and logits that follow it, for any number of gradients."""
        # a compiled backward frees what the next one needs
        leaf, attached = self.attached(x, self.uncompiled)
        self.counts.forwards += len(x)
        return leaf, attached

    def pull(self, leaf: Tensor, attached: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        """Return the gradient at `leaf` of by_logits [B, K] @ attached, the logits there."""
        # the lens is for what a checkpoint computes again
        lens = self.rewriting.lens() or nullcontext()
        with no_autocast(leaf.device.type), lens:
            return pull(leaf, attached, by_logits, retain_graph)


def kind_of_pass(x: Tensor, kind: str) -> Hashable:
    """Return what passes share that are compared once; a single row takes ways of its own."""
    return x.dtype, x.shape[1:], len(x) == 1, kind == LOGITS
