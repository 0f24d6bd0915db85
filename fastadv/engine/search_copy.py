"""The search copy of a frozen model: what is copied, and how it passes batches."""

import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.arguments import classes_for
from fastadv.engine.bound import Bound, Gradient, jacobian, pull
from fastadv.engine.capture import Captures, graphs_of, kind_of, passes_alike
from fastadv.engine.checked import CheckedModel
from fastadv.engine.copy import copied, take_values
from fastadv.engine.guard import HALVES
from fastadv.engine.module import unwrap
from fastadv.engine.plain import Plain
from fastadv.engine.precision import NOTHING, Options, no_autocast, to_half
from fastadv.engine.prepared import Directions
from fastadv.engine.rewrite import Lens, Pair, Rewrite, fold
from fastadv.engine.rewrites import CHANNELS_LAST, FOLD, laid_out, lay_out
from fastadv.engine.room import GRADIENT, LOGITS, Parts, room_of
from fastadv.engine.winograd import WINOGRAD, gains_by_rows

log = logging.getLogger("fastadv")

ROWS = 16  # of a batch that are watched and compared


class SearchCopy:
    """Logits and gradients by a copy of the model that computes in another way."""

    eot = 1  # passes of a question

    def __init__(
        self, plain: Plain, module: nn.Module, options: Options, rewrites: list[Rewrite],
        notes: dict[str, None],
    ) -> None:  # fmt: skip
        """Copy a module; InputError where there can be no copy. `notes` get what is done."""
        self.module, self.options, self.rewrites, self.notes = module, options, rewrites, notes
        self.counts, self.mends_rows = plain.counts, plain.checked.mends_rows
        self.dtype, self.sees, self.search_dtype = plain.dtype, plain.sees, options.half or plain.dtype
        self.half, self.channels_last = self.search_dtype in HALVES, CHANNELS_LAST in rewrites
        self.model: Any = copied(module, buffers=options.follow)
        # weights made in inference mode could not take part in a gradient
        with torch.inference_mode(False), torch.no_grad():
            if self.channels_last or options.half is not None or options.follow:
                lay_out(self.model, self.channels_last)
            if options.half is not None:
                to_half(self.model, options.half)
        # more than views is replaced once it is folded: Winograd's kernels are kept, as of the weights then
        self.lens = Lens([CHANNELS_LAST] if self.channels_last else [], self.search_dtype, notes)
        # the copy, and the same before it is compiled
        self.checked = self.uncompiled = self._through_lens(self.model)
        self.prepared, self.pairs = False, list[Pair]()
        # dtypes and shapes of samples, with a gradient or not, whose passes were compared with the model's
        self.compared = set[Hashable]()
        self.room = room_of(plain.source)
        wide = WINOGRAD in rewrites and gains_by_rows(self.model)
        self.parts = Parts(None if options.compile else self.model, wide)
        told = {
            "channels-last": self.channels_last,
            "bfloat16 search": options.half is not None,
            "compiled": options.compile,
        }
        notes |= dict.fromkeys(note for note, holds in told.items() if holds)

    @property
    def gains(self) -> bool:
        """Whether it computes anything in another way than the model."""
        return bool(self.lens or self.pairs or self.options.special)

    def serves(self, kind: str) -> bool:
        """Return whether it may answer in that kind of pass."""
        # half precision does not tell apart losses that attacks without a gradient compare
        return not (self.half and kind == LOGITS)

    def is_compared(self, kind: str, x: Tensor) -> bool:
        """Return whether passes of rows like x were compared with the model's."""
        return kind_of_pass(kind, x) in self.compared

    def prepare(self, x: Tensor) -> None:
        """Fold what a pass of x shows, compile, and replace functions from now on."""
        if FOLD in self.rewrites:
            self.counts.forwards += len(x)
            with suppress(Exception), torch.enable_grad():  # what fails is told where it is compared
                self.pairs = fold(self.model, self.module, lambda: self.checked(self.leaf(x)))
            self.notes[f"folded {len(self.pairs)} BatchNorm"] = None
        # a compiler looks at functions for itself
        self.lens = Lens([] if self.options.compile else self.rewrites, self.search_dtype, self.notes)
        self.checked = self.uncompiled = self._through_lens(self.model)
        if self.options.compile:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
            self.model = torch.compile(self.model)
            self.checked = self._through_lens(self.model)
        self.prepared = True

    def _through_lens(self, model: nn.Module) -> CheckedModel:
        checked = CheckedModel(model, self.mends_rows, outputs=self.options.outputs)
        checked.model = partial(_through, self.lens, model)
        return checked

    def refresh(self) -> None:
        """Take the current values of a model that trains."""
        with torch.inference_mode(False), torch.no_grad():
            take_values(unwrap(self.model), self.module)
            for pair in self.pairs:
                pair.refresh()

    # The three questions, of batches that pass in parts.

    def __call__(self, x: Tensor) -> Tensor:
        self.counts.forwards += len(x)
        return self.room.passes(LOGITS, self.logits, x, apart=self.rows_apart, most=self.full_batch(x))

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss, targets: Tensor | None = None,
        direction: bool = False,
    ) -> Gradient:  # fmt: skip
        y, targets = classes_for(loss, y, targets)
        return Bound(self, y, loss, targets, direction)(x)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        return self.room.jacobian(partial(jacobian, self, reduce), x, directions, self, self.rows_apart)

    # What passes are made of.

    def logits(self, x: Tensor) -> Tensor:
        return self.checked(self._ready(x)).detach().clone()  # as what stays

    def leaf(self, x: Tensor) -> Tensor:
        """Return x as the copy sees it, to follow a gradient to it."""
        return self._ready(x).detach().requires_grad_()

    def followed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x as a leaf, and logits that follow it, for any number of gradients."""
        leaf = self.leaf(x)
        self.counts.forwards += len(x)
        return leaf, self.uncompiled(leaf)  # a compiled backward frees what the next one needs

    def pull(self, leaf: Tensor, attached: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        """Return the gradient at `leaf` of by_logits [B, K] @ attached, the logits there."""
        # functions are replaced for what a checkpoint computes again
        with no_autocast(leaf.device.type), self.lens or NOTHING:
            return pull(leaf, attached, by_logits, retain_graph)

    def refuse(self, way: str, error: Exception, leaf: Tensor) -> NoReturn:
        """Raise the error of a pass, which counts as one."""
        self.counts.forwards += len(leaf)
        raise error

    def fits(self, x: Tensor) -> bool:
        """Return whether x passes with its gradient at once."""
        rows = len(x)
        return rows <= min(self.full_batch(x) or rows, self.room.most(GRADIENT, x))

    def rows_apart(self) -> bool:
        return True  # logits that depend on the rest of a batch may differ in the search, not in the verdict

    def layout(self, x: Tensor) -> Tensor:
        return laid_out(x, self.channels_last)

    def _ready(self, x: Tensor) -> Tensor:
        return self.layout(x).to(self.sees(x.dtype) if self.search_dtype == self.dtype else self.search_dtype)

    def measure(self, x: Tensor) -> None:
        """Find in which parts rows like x pass fast."""

        def probe(rows: Tensor) -> Tensor:
            self.counts.forwards += len(rows)
            return self.logits(rows)

        self.parts.measure(probe, x)

    def full_batch(self, x: Tensor) -> int:
        return self.parts.full(x)

    def captures(self, x: Tensor) -> Captures | None:
        if not self.is_compared(GRADIENT, x):
            return None
        model = unwrap(self.model)
        kind, alike = kind_of(model), partial(passes_alike, model, self.logits, x)
        return Captures(graphs_of(self), kind, (self.model, self.lens), alike) if kind else None


def _through(lens: Lens, model: nn.Module, x: Tensor) -> Any:
    with no_autocast(x.device.type), lens or NOTHING:
        return model(x)


def kind_of_pass(kind: str, x: Tensor) -> Hashable:
    """Return what passes share that are compared once; a single row takes ways of its own."""
    return x.dtype, x.shape[1:], len(x) == 1, kind == LOGITS
