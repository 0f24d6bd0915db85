"""Frozen: the model as given for verdicts, and a faster copy for the search."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastadv._checks import eager
from fastadv._torch import has_global_hooks, parts_of
from fastadv._waiting import waits
from fastadv.engine.arguments import Outputs
from fastadv.engine.bound import Ask, CleanPass, Gradient
from fastadv.engine.capture import CAPTURED, Captures, in_step
from fastadv.engine.compare import Apart, compare
from fastadv.engine.mode import InEval
from fastadv.engine.module import as_module
from fastadv.engine.plain import Plain
from fastadv.engine.precision import Options, check_possible, no_gradient, with_gradient
from fastadv.engine.prepared import Counts, Directions, Loss, Model, Prepared, read_from
from fastadv.engine.rewrites import applicable
from fastadv.engine.room import GRADIENT, JACOBIAN, LOGITS, mixes_rows
from fastadv.engine.search_copy import ROWS, SearchCopy
from fastadv.engine.stamp import Stamp
from fastadv.errors import InputError
from fastadv.rng import generators_kept
from fastadv.text import first_line

T = TypeVar("T")
log = logging.getLogger("fastadv")

REFRESHES = 256  # of a model in training, after which its copy is compared anew
# values of a batch on a CPU, fewer of which pass as in a plain call: a gradient of an image of 32 by 32 takes
# 24 ms so and 26 by the copy for a ResNet-18, 1.6 and 2.1 for a small CNN; with four or eight the copy gains
FEW = 1 << 13
COPIES = "given copies of x, into which the model writes"
MIXES = "searched as it is: a BatchNorm takes its statistics from the batch"
FAILED = "the search copy failed ({})"
DENIED = "the losses of a search differed from the model's at the same points"
CHANGED = "the model has changed since freeze; it was frozen again"


class Frozen(Prepared):
    """A classifier frozen by `fastadv.freeze`: it searches on a faster copy, and answers as the model.

    `frozen(x)`, `frozen.input_gradient` and `frozen.jacobian` use the search copy, except on a CPU for few
    values, where it is no faster; `frozen.verdict(x)` and `frozen.model` are the model as given, in eval
    mode. Before the first pass of each shape and dtype the copy is compared with the model, on 16 rows; where
    they differ, as they do for a randomized model, or the copy fails, the model replaces it from then on,
    with a warning. `forwards` and `backwards` count these comparisons. A batch may pass the copy in parts.

    It is a snapshot: each call looks whether the model's parts, their modes and hooks, and its tensors are
    what they were. Otherwise `source` is frozen anew by the same options, and the counts go on; a note and,
    the first time, a line in the log say so. A change of anything else that a module holds, such as a number,
    is not seen: make a new one then. A copy by `copy.deepcopy` or `pickle` is frozen anew, too, and counts
    from 0.

    Args:
        model: module, or function of x [B, ...] that returns logits [B, K].
        options: those of `fastadv.freeze`, which makes one.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> frozen = fa.freeze(model)
        >>> loss, logits, gradient = frozen.input_gradient(x, y, loss="margin")
        >>> tuple(loss.shape), tuple(logits.shape), tuple(gradient.shape)
        ((8,), (8, 10), (8, 1, 8, 8))
    """

    # Between calls it is in one of these states:
    # new       the copy is made; the first batch shows what to fold, and is what it is compiled for
    # prepared  each first pass of a kind, shape and dtype is compared; what was compared the copy answers
    # left      `search` is None, for good: nothing is gained, or the copy has differed or failed
    # old       the model has changed: `_freeze` makes everything anew

    outputs, describe = read_from("options", "outputs", "describe")
    output_shape, sees = read_from("_plain", "output_shape", "sees")
    eot = 1  # of several passes the model as given searches

    def __init__(self, model: Model | Prepared, options: Options) -> None:
        self.options, self.counts = options, Counts()
        self._lock, self._refreshed, self._others = RLock(), 0, dict[Outputs, Frozen]()
        self._logged = set[str]()
        self._freeze(model)

    def _freeze(self, model: Model | Prepared) -> None:
        plain = Plain(model, counts=self.counts, outputs=self.outputs)
        module = as_module(plain.source)
        check_possible(self.options, type(plain.source).__name__, module, plain.device)
        self.source, self.parts, self._plain, self._module = plain.source, plain.parts, plain, module
        self.dtype, self.device = plain.dtype, plain.device
        self._notes = dict.fromkeys([CAPTURED] * (self.options.cuda_graph is True))
        with plain.in_eval():
            self.search = self._copy(plain, module)
            self._stamp = Stamp(module, values=not self.options.follow)

    def _copy(self, plain: Plain, module: nn.Module | None) -> SearchCopy | None:
        """Return a copy for the search; None where it cannot be, or is no faster."""
        if module is None:
            return None
        if mixes_rows(module):  # what a search finds in a batch is not proved by a part of it
            self.add_note(MIXES)
            return None
        rewrites = applicable(module, self.options.half or plain.dtype)
        if not (rewrites or self.options.special):
            return None
        try:
            return SearchCopy(plain, module, self.options, rewrites, self._notes)
        except InputError as error:
            self._leave(str(error))
            return None

    @contextmanager
    def _current(self) -> Iterator[Plain]:
        """Give the model as it is now, in eval mode inside; what its passes write is no change of it."""
        with self.in_eval():
            with self._lock:
                if not (self.options.follow or self._stamp.same()):
                    self._freeze(self.source)
                    self._warn(CHANGED)
            yield self._plain
            self._stamp.renew()

    def _answer(self, kind: str, x: Tensor, ask: Callable[[Plain | SearchCopy, Tensor], T]) -> T:
        """Return what the copy answers about x, or the model where there is none, or it differs or fails."""
        with self._current() as plain:
            x, fault = plain.checked_x(x), ""
            search = self._chosen(kind, x)
            if search is not None:
                try:
                    self._compare(search, kind, x)
                    return ask(search, x)
                except Exception as error:  # models raise anything
                    fault = _fault(error)
            # x may be left of a larger batch, in the layout of the search
            answer = ask(plain, x.contiguous())
            if fault:  # the model has answered: the copy is to blame
                self._leave(fault)
            return answer

    def _chosen(self, kind: str, x: Tensor) -> SearchCopy | None:
        """Return the copy where it is to answer about rows like x; None where the model as given is."""
        if self.searches(x, kind):
            self._prepare(x)
            return self.search
        return None

    def _prepare(self, x: Tensor) -> None:
        """Prepare the copy on the first batch."""
        with self._lock:
            search = self.search
            if search is None or search.prepared or not len(x):
                return
            with self._comparing(x), self.in_eval(), torch.inference_mode(False), torch.no_grad():
                search.prepare(x[:ROWS])
            if not search.gains:
                self.search = None

    def _compare(self, search: SearchCopy, kind: str, x: Tensor) -> None:
        """Raise Apart where the copy differs from the model on the first rows of a kind."""
        # in a graph nothing can be compared
        if not (in_step() or search.is_compared(kind, x)) and len(x):
            with self._lock, self._comparing(x):
                compare(search, self._plain, kind, x)

    @contextmanager
    def _comparing(self, x: Tensor) -> Iterator[None]:
        """Count what passes inside as `compared`; leave the generators of random numbers as they are."""
        forwards, backwards = self.asked
        try:
            with generators_kept(x.device):
                yield
        finally:
            self.compared = self.forwards - forwards, self.backwards - backwards

    def _leave(self, why: str) -> None:
        """Let the model as given search from now on."""
        self.search = None
        self._warn(f"fell back to the model as given: {why}")

    def _warn(self, note: str) -> None:
        """Add a note, and log it once."""
        if note not in self._logged:
            self._logged.add(note)
            log.warning("freeze: %s", note)
        self.add_note(note)

    def having(self, *, eot: int, outputs: Outputs) -> Prepared:
        """Return the same for other outputs, made once; of several passes, the model as given."""
        other: Prepared
        if eot > 1:
            other = Plain(self.source, eot, outputs=outputs)
        elif outputs in self._others:
            other = self._others[outputs]
        else:
            other = self._others[outputs] = Frozen(self.source, replace(self.options, outputs=outputs))
        other.patient = self.patient
        return other

    def in_eval(self) -> InEval:
        # whose parts may have changed since
        return InEval([] if self._module is None else parts_of(self._module))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.describe().items())
        return "\n- ".join([f"Frozen({type(self.source).__name__}, {options})", *self.notes])

    def __reduce__(self) -> Any:
        return type(self), (self.source, self.options)

    @property
    def model(self) -> Model:  # type: ignore[override]
        with self._current() as plain:
            return plain.model

    @property
    def as_given(self) -> Prepared:
        return self if self.search is None else self._plain

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*self._plain.notes, *self._notes, *[COPIES] * self._plain.checked.copies)

    def add_note(self, note: str) -> None:
        self._notes[note] = None

    @property
    def prepared(self) -> bool:
        """Whether the copy has seen a batch, if there is one."""
        return self.search is None or self.search.prepared

    @property
    def search_dtype(self) -> torch.dtype | None:
        return (self.search or self._plain).search_dtype

    def full_batch(self, x: Tensor) -> int:
        return (self.search or self._plain).full_batch(x)

    @eager
    def verdict(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        with self._current() as plain:
            return plain.verdict(x)

    def clean_pass(self, x: Tensor, rows: Tensor | None = None) -> CleanPass | None:
        # The model as given passes; its graph must not stay in memory while the copy is compared
        with self._current() as plain:
            return plain.clean_pass(x) if self.prepared else None

    def refresh(self) -> bool:
        """Take the current values of a model that trains, if this was made to follow it.

        Returns False where parts, modes or hooks of it have changed.
        """
        with self._plain.in_eval():
            if not (self.options.follow and self._stamp.same()):
                return False
        if self.search is not None:
            self.search.refresh()
        self._refreshed += 1
        if self._refreshed % REFRESHES == 0:  # what rounds little today may round more with other weights
            self.compare_anew()
        return True

    def compare_anew(self) -> None:
        """Compare the copy anew before its next passes."""
        if self.search is not None:
            self.search.compared.clear()

    def searches(self, x: Tensor, kind: str = GRADIENT) -> bool:
        """Return whether the copy answers for rows like x, not the model as given."""
        search, options = self.search, self.options
        if search is None or not search.serves(kind) or has_global_hooks():
            return False
        return options.special or options.follow or not x.is_cpu or x.numel() >= FEW

    @eager
    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and getattr(x, "requires_grad", False):
            with self._current() as plain:
                return plain(x)
        with no_gradient():
            return self._answer(LOGITS, x, lambda one, x: one(x))

    @eager
    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Tensor | None = None,
    ) -> Gradient:  # fmt: skip
        with with_gradient():
            return self._answer(
                GRADIENT, x, lambda one, x: one.input_gradient(x, y, loss, targets, direction)
            )

    @eager
    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with with_gradient():
            return self._answer(JACOBIAN, x, lambda one, x: one.jacobian(x, directions, reduce))

    def bind(
        self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, rows: Tensor | None = None
    ) -> Ask | None:
        with self._current() as plain:
            if not self.searches(x):  # what is left of a search by the copy has its layout
                return plain.bind(x, y, loss, targets) if x.is_contiguous() else None
        return partial(self.input_gradient, y=y, loss=loss, targets=targets, direction=True)

    def layout(self, x: Tensor) -> Tensor:
        self._prepare(x)
        return (self._chosen(GRADIENT, x) or self._plain).layout(x)

    def captures(self, x: Tensor) -> Captures | None:
        if self.options.cuda_graph is False or not waits(x.device):
            return None
        with self._current() as plain:  # a replay looks at nothing
            graphs = (self._chosen(GRADIENT, x) or plain).captures(x)
        return graphs and replace(graphs, tell=self._tell)

    def _tell(self, why: str) -> None:
        if self.options.cuda_graph:
            self._notes.pop(CAPTURED, None)
            self._warn(f"not {CAPTURED}: {why}")

    def differs(self, apart: Tensor, verdict: Tensor) -> bool:
        """Compare the copy anew where its losses are not the verdict's."""
        differs = super().differs(apart, verdict)
        if differs and self.search is not None:
            self.compare_anew()
            self._warn(DENIED)
        return differs

    def compare(self, x: Tensor) -> None:
        with with_gradient():
            self._answer(GRADIENT, x, lambda one, x: None)


def _fault(error: Exception) -> str:
    """Return what an error says of the copy, if the model answers."""
    if in_step():  # the graph is given up
        raise error
    return str(error) if isinstance(error, Apart) else FAILED.format(first_line(error))
