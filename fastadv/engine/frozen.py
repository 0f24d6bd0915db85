"""Frozen: the model as given for verdicts, and a faster copy for the search."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import eager
from fastadv._torch import has_global_hooks, parts_of
from fastadv._waiting import waits
from fastadv.engine.arguments import Outputs
from fastadv.engine.bound import Ask, CleanPass, Gradient
from fastadv.engine.capture import CAPTURED, Captures, in_step
from fastadv.engine.compare import Apart, compare
from fastadv.engine.copy import RunsOriginal
from fastadv.engine.guard import allowed
from fastadv.engine.mode import InEval
from fastadv.engine.module import as_module
from fastadv.engine.plain import Plain, Refusal
from fastadv.engine.precision import Options, check_possible, no_gradient, with_gradient
from fastadv.engine.prepared import Counts, Directions, Loss, Model, Prepared, read_from
from fastadv.engine.room import GRADIENT, JACOBIAN
from fastadv.engine.search_copy import LOGITS, ROWS, SearchCopy
from fastadv.engine.stamp import Stamp
from fastadv.errors import InputError, NoGradientError
from fastadv.rng import generators_kept
from fastadv.text import first_line

REFRESHES = 256
# values of a batch on a CPU, fewer of which pass as in a plain call: a gradient of an image of 32 by 32 takes
# 24 ms so and 26 by the copy for a ResNet-18, 1.6 and 2.1 for a small CNN; with four or eight the copy gains
FEW = 1 << 13
COPIES = "given copies of x, into which the model writes"
NO_GRADIENT = "it has no gradient at the first samples, by which a copy is compared"
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

    outputs, describe = read_from("options", "outputs", "describe")
    output_shape, sees = read_from("_plain", "output_shape", "sees")
    eot = 1  # of several passes the model as given searches

    def __init__(self, model: Model | Prepared, options: Options) -> None:
        self.options, self.counts = options, Counts()
        self._lock, self._refreshed, self._others = RLock(), 0, dict[Outputs, Frozen]()
        self._freeze(model)

    def _freeze(self, model: Model | Prepared) -> None:
        plain = Plain(model, counts=self.counts, outputs=self.outputs)
        module = as_module(plain.source)
        check_possible(self.options, type(plain.source).__name__, module, plain.device)
        self.source, self.parts, self._plain = plain.source, plain.parts, plain
        self.dtype, self.device = plain.dtype, plain.device
        with plain.in_eval():
            self.search = SearchCopy(plain, self.options)
            self._stamp = None if module is None else Stamp(module, values=not self.options.follow)
        self._questions = set[str]()  # of a kind that has shown what the model itself writes
        self.prepared = self.search.idle  # whether the search copy has seen a batch

    @contextmanager
    def _as_it_is_now(self, question: str) -> Iterator[Plain]:
        """Give the model as it is now, in eval mode inside; what it writes itself is no change of it."""
        with self._plain.in_eval():
            self._freeze_anew()
        plain = self._plain
        with plain.in_eval():
            yield plain
            if self._stamp is not None and question not in self._questions:
                self._questions.add(question)
                self._stamp.forgive()

    def _freeze_anew(self) -> None:
        """Freeze the source anew where it has changed; in eval mode."""
        if self._stamp is None or self.options.follow or self._stamp.same():
            return
        with self._lock:
            if not self._stamp.same():  # or else another thread has done it meanwhile
                noted = CHANGED in self.notes
                self._freeze(self.source)
                (self.add_note if noted else self.search.warn)(CHANGED)

    @contextmanager
    def _chosen(self, kind: str, x: Tensor) -> Iterator[tuple[Plain | SearchCopy, Tensor]]:
        """Give what answers about x inside, the copy or the model as given, and x as that takes it."""
        with self._as_it_is_now(kind) as plain:
            x = plain.checked_x(x)
            fault = self._fault(x, kind)
            if self.searches(x, kind) and not fault:
                asked = self.asked
                try:
                    yield self.search, x
                except Exception as error:  # what fails where others passed; the caller asks again
                    self.search.leave(_blame(error))
                    self._discount(asked)
                return
            # x may be left of a larger batch, in the layout of the search
            yield plain, x.contiguous()
            if fault:  # the model has answered: the copy was to blame
                self.search.leave(fault)

    def _fault(self, x: Tensor, kind: str) -> str:
        """Return why the copy cannot answer about rows like x, "" if it can: the first are compared."""
        if self.searches(x, kind):
            self._prepare(x)
        if not self.searches(x, kind) or self.search.is_compared(x, kind):
            return ""
        asked = self.asked
        try:
            compare(self.search, Plain(self.source, counts=self.counts, outputs=self.outputs), x, kind)
        except Exception as error:  # models raise anything
            fault = _blame(error)
            # an error of the model itself, a Refusal, may not come again
            if not isinstance(error, NoGradientError) or isinstance(error, Refusal):
                return fault
            self.search.leave(fault)
        finally:
            self._discount(asked)
        return ""

    def _discount(self, asked: tuple[int, int]) -> None:
        """Count all that was passed since so much had been asked for as passed to compare."""
        self.compared = self.forwards - asked[0], self.backwards - asked[1]

    def _prepare(self, x: Tensor) -> None:
        """Prepare the search copy on the first batch."""
        if self.prepared or len(x) == 0:
            return
        # A randomized model's next draws do not depend on when it is prepared
        with (
            self._lock, self._plain.in_eval(), generators_kept(x.device), torch.inference_mode(False),
            torch.no_grad(),
        ):  # fmt: skip
            if not self.prepared:  # or else another thread has done it meanwhile
                asked = self.asked
                self.search.prepare(x[:ROWS], self._plain)
                self.prepared = True
                self._discount(asked)

    def having(self, *, eot: int, outputs: Outputs) -> Prepared:
        """Return the same for other outputs, made once; of several passes, the model as given."""
        if eot > 1:
            return Plain(self.source, eot, outputs=outputs)
        if outputs not in self._others:
            self._others[outputs] = Frozen(self.source, replace(self.options, outputs=outputs))
        return self._others[outputs]

    def in_eval(self) -> InEval:
        module = as_module(self.source)  # whose parts may have changed since
        return InEval([] if module is None else parts_of(module))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.describe().items())
        return "\n- ".join([f"Frozen({type(self.source).__name__}, {options})", *self.notes])

    def __reduce__(self) -> Any:
        return type(self), (self.source, self.options)

    @property
    def model(self) -> Model:  # type: ignore[override]
        with self._as_it_is_now("model") as plain:
            return plain.model

    @property
    def as_given(self) -> Prepared:
        return self if self.search.idle else self._plain

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        copies = self._plain.checked.copies or self.search.checked.copies
        return (*self.search.notes, *((COPIES,) if copies else ()))

    def add_note(self, note: str) -> None:
        self.search.notes[note] = None

    @property
    def search_dtype(self) -> torch.dtype | None:
        return self.dtype if self.search.idle else self.search.weights

    @eager
    def verdict(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        with self._as_it_is_now("verdict") as plain:
            return plain.verdict(x)

    def clean_pass(self, x: Tensor, rows: Tensor | None = None) -> CleanPass | None:
        # The model as given passes; its graph must not stay in memory while the copy is compared
        with self._as_it_is_now("clean pass") as plain:
            return plain.clean_pass(x) if self.prepared else None

    def refresh(self) -> bool:
        """Take the current values of a model that trains, if this was made to follow it.

        Returns False where parts, modes or hooks of it have changed.
        """
        with self._plain.in_eval():
            if not self.options.follow or self._stamp is None or not self._stamp.same():
                return False
        self.search.refresh()
        self._refreshed += 1
        if self._refreshed % REFRESHES == 0:  # what rounds little today may round more with other weights
            self.search.compared.clear()
        return True

    def searches(self, x: Tensor, kind: str = GRADIENT) -> bool:
        """Return whether the copy answers for rows like x, not the model as given."""
        few = x.is_cpu and x.numel() < FEW and self.search.ordinary
        return kind in self.search.kinds and not few and not has_global_hooks()

    @eager
    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and getattr(x, "requires_grad", False):
            with self._as_it_is_now("__call__") as plain:
                return plain(x)
        with no_gradient(), self._chosen(LOGITS, x) as (chosen, ready):
            return chosen(ready)
        return self(x)  # the copy failed, and the model answers from now on

    @eager
    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Tensor | None = None,
    ) -> Gradient:  # fmt: skip
        with with_gradient(), self._chosen(GRADIENT, x) as (chosen, ready):
            return chosen.input_gradient(ready, y, loss, targets, direction)
        return self.input_gradient(x, y, loss, targets, direction)

    @eager
    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with with_gradient(), self._chosen(JACOBIAN, x) as (chosen, ready):
            return chosen.jacobian(ready, directions, reduce)
        return self.jacobian(x, directions, reduce)

    def bind(
        self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, rows: Tensor | None = None
    ) -> Ask | None:
        with self._as_it_is_now("bind") as plain:
            if not self.searches(x):  # what is left of a search by the copy has its layout
                return plain.bind(x, y, loss, targets) if x.is_contiguous() else None
        return partial(self.input_gradient, y=y, loss=loss, targets=targets, direction=True)

    def layout(self, x: Tensor) -> Tensor:
        self._prepare(x)
        return self.search.layout(x) if self.searches(x) else x

    def full_batch(self, x: Tensor) -> int:
        return self.search.parts.full(x)

    def captures(self, x: Tensor) -> Captures | None:
        if self.options.cuda_graph is False or not waits(x.device):
            return None
        with self._as_it_is_now("captures") as plain:  # a replay looks at nothing
            graphs = self.search.captures(x) if self.searches(x) else plain.captures(x)
        return graphs and replace(graphs, tell=self._tell)

    def _tell(self, why: str) -> None:
        if self.options.cuda_graph:
            self.search.warn(f"not {CAPTURED}: {why}", instead_of=CAPTURED)

    def differs(self, apart: Tensor, verdict: Tensor) -> bool:
        """Compare the search anew where its losses are not those of the verdict."""
        search = self.search
        if bool(apart <= 2 * allowed(verdict, search.formats(verdict.device))):
            return False
        if DENIED in search.notes:  # though it was compared again
            search.leave(DENIED)
        elif not search.idle:
            search.compared.clear()
            search.warn(DENIED)
        return True

    def compare(self, x: Tensor) -> None:
        with self._as_it_is_now(GRADIENT):
            if fault := self._fault(x, GRADIENT):
                self.search.leave(fault)


def _blame(error: Exception) -> str:
    """Return why the copy cannot answer; raise what is no fault of it."""
    if isinstance(error, NoGradientError):
        return NO_GRADIENT
    if isinstance(error, Apart | RunsOriginal):
        return str(error)
    if in_step() or isinstance(error, InputError):
        raise error
    return FAILED.format(first_line(error))
