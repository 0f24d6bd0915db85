"""Frozen: the model as given for verdicts, and a faster copy for the search."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv._checks import eager
from fastadv._torch import has_global_hooks
from fastadv._waiting import waits
from fastadv.engine.arguments import Outputs
from fastadv.engine.bound import Ask, CleanPass, Gradient
from fastadv.engine.capture import CAPTURED, Captures, in_step
from fastadv.engine.compare import Apart, compare, fastest
from fastadv.engine.copying.reach import Stamp
from fastadv.engine.guard import allowed
from fastadv.engine.mode import evaluated
from fastadv.engine.module import as_module
from fastadv.engine.plain import Plain
from fastadv.engine.precision import AUTO, Options, check_possible, no_gradient, with_gradient
from fastadv.engine.prepared import Counts, Directions, Loss, Model, Prepared
from fastadv.engine.room import GRADIENT
from fastadv.engine.search_copy import JACOBIAN, LOGITS, ROWS, SearchCopy
from fastadv.errors import InputError, NoGradientError
from fastadv.rng import generators_kept
from fastadv.text import first_line

T = TypeVar("T")

REFRESHES = 256
# values of a batch on a CPU, fewer of which pass as in a plain call: a gradient of an image of 32 by 32 takes
# 24 ms so and 26 by the copy for a ResNet-18, 1.6 and 2.1 for a small CNN; with four or eight the copy gains
FEW = 1 << 13
COPIES = "given copies of x, into which the model writes"
NO_GRADIENT = "it has no gradient at the first samples, by which a copy is compared"
DENIED = "the losses of a search differed from the model's at the same points"
CHANGED = "the model has changed since freeze; it was frozen again"


class Frozen(Prepared):
    """A classifier frozen by `fastadv.freeze`: it searches on a faster copy, and answers as the model.

    `frozen(x)`, `frozen.input_gradient` and `frozen.jacobian` use the search copy, except on a CPU for few
    values, where it is no faster; `frozen.verdict(x)` and `frozen.model` are the model as given, in eval
    mode. Before the first pass of each shape and dtype the copy is compared with the model, on 16 rows; where
    they differ, as they do for a randomized model, or the copy fails, the model replaces it from then on,
    with a warning. `forwards` and `backwards` count these comparisons. A batch may pass the copy in parts.

    It is not stale: each call looks whether the model's tensors, parts, attributes, modes and hooks are what
    they were, but not into closures, arrays of NumPy and other objects that it holds. Otherwise `source` is
    frozen anew by the same options, and the counts go on; a note and, the first time, a line in the log say
    so. A copy by `copy.deepcopy` or `pickle` is frozen anew, too, and counts from 0.

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

    def __init__(self, model: Model | Prepared, options: Options) -> None:
        self.options, self.eot, self.counts = options, options.eot, Counts()
        self._lock, self._refreshed, self._taking = RLock(), 0, dict[str, Frozen]()
        self._freeze(model)

    def _freeze(self, model: Model | Prepared) -> None:
        with evaluated(model):
            self._prepare(model)

    def _prepare(self, model: Model | Prepared) -> None:
        plain = Plain(model, self.eot, self.counts, self.outputs)
        module = as_module(plain.source)
        check_possible(self.options, type(plain.source).__name__, module, plain.device)
        self.source, self.dtype, self.device = plain.source, plain.dtype, plain.device
        self.search, self._plain, self._stale = SearchCopy(plain, self.options), plain, False
        follows = self.options.follow
        stamp = None if module is None else Stamp(module, values=not follows)
        self._stamp: Stamp | None = None if follows else stamp
        self._parts: Stamp | None = stamp if follows else None
        self._measures = self.options.precision == AUTO
        # Settled means that the search copy was chosen and prepared
        self.settled = self.search.idle and not self._measures

    def _renew(self) -> None:
        """Freeze the source anew where it has changed."""
        with self._plain.in_eval():
            if self._stamp is None or self._stamp.same():
                return
        with self._lock, self._plain.in_eval():
            if not self._stamp.same():  # or else another thread has done it meanwhile
                noted = CHANGED in self.notes
                self._freeze(self.source)
                (self.add_note if noted else self.search.warn)(CHANGED)

    def _as_plain(self) -> Plain:
        """Return the model as given as a plain call prepares it; the caller has looked at the stamp."""
        if self._stale:  # its buffers are those of a model that has trained since
            self._plain = Plain(self.source, self.eot, self.counts, self.outputs)
            self._stale = False
        return self._plain

    def _now(self) -> Plain:
        self._renew()
        return self._as_plain()

    @cached_property
    def compiled(self) -> "Frozen":
        """The same with a copy that is compiled."""
        return Frozen(self.source, replace(self.options, compile=True))

    @property
    def outputs(self) -> Outputs:  # type: ignore[override]
        return self.options.outputs

    @property
    def output_shape(self) -> torch.Size | None:
        return self._plain.output_shape

    def taking(self, outputs: Outputs) -> "Frozen":
        if outputs not in self._taking:
            self._taking[outputs] = Frozen(self.source, replace(self.options, outputs=outputs))
        return self._taking[outputs]

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.describe().items())
        return "\n- ".join([f"Frozen({type(self.source).__name__}, {options})", *self.notes])

    def __reduce__(self) -> Any:
        return type(self), (self.source, self.options)

    @property
    def model(self) -> Model:  # type: ignore[override]
        return self._now().model

    @property
    def as_given(self) -> Prepared:
        return self if self.search.idle else self._as_plain()

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        copies = self._plain.checked.copies or self.search.checked.copies
        return (*self.search.notes, *((COPIES,) if copies else ()))

    def add_note(self, note: str) -> None:
        self.search.notes[note] = None

    @property
    def search_dtype(self) -> torch.dtype | None:
        return self.dtype if self.search.idle else self.search.weights

    def describe(self) -> dict[str, Any]:
        return self.options.describe()

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        return self._plain.sees(dtype)

    def verdict(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return self._now().verdict(x)

    def confidence(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return self._now().confidence(x)

    def clean_pass(self, x: Tensor, rows: Tensor | None = None) -> CleanPass | None:
        # The model as given passes; its graph must not stay in memory while the copy is compared
        plain = self._now()
        return plain.clean_pass(x) if self.settled else None

    def refresh(self) -> bool:
        """Take the current values of a model that trains, if this was made to follow it.

        Returns False where parts, attributes, modes or hooks of it or of its copy have changed.
        """
        with self._plain.in_eval():
            if self._parts is None or not self._parts.same():
                return False
        self.search.refresh()
        self._stale, self._refreshed = True, self._refreshed + 1
        if self._refreshed % REFRESHES == 0:  # what rounds little today may round more with other weights
            self.search.compared.clear()
        return True

    def _copied(self, x: Tensor, kind: str = GRADIENT) -> bool:
        """Return whether the copy answers for rows like x, not the model as given."""
        few = x.is_cpu and x.numel() < FEW and self.search.ordinary
        return kind in self.search.kinds and not few and not has_global_hooks()

    def _answer(self, x: Tensor, kind: str, ask: Callable[[Plain | SearchCopy, Tensor], T]) -> T:
        """Return an answer of the copy, which is compared first, or else of the model as given."""
        with self._plain.in_eval():
            return self._inside(x, kind, ask)

    def _inside(self, x: Tensor, kind: str, ask: Callable[[Plain | SearchCopy, Tensor], T]) -> T:
        self._renew()
        x = self._plain.taken(x)

        def compared() -> T:
            self._compare(x, kind)
            return ask(self.search, x)

        def plainly() -> T:
            # x may be left of a larger batch, in the layout of the search
            return ask(self._as_plain(), x.contiguous())

        if self._copied(x, kind):
            self.settle(x)
        return self._tried(compared, plainly) if self._copied(x, kind) else plainly()

    def _compare(self, x: Tensor, kind: str) -> None:
        """Compare passes of the copy with those of the model, the first of each kind."""
        asked = self.asked
        if not self.search.knows(x, kind):
            compare(self.search, Plain(self.source, counts=self.counts, outputs=self.outputs), x, kind)
            self._discount(asked)

    def _tried(self, by_copy: Callable[[], T], by_plain: Callable[[], T]) -> T:
        """Return by_copy(); where the copy fails or is not the model, by_plain(), from now on."""
        asked = self.asked
        try:
            return by_copy()
        except Exception as error:  # models raise anything
            cut = isinstance(error, NoGradientError)
            if in_step() or (isinstance(error, InputError) and not cut):
                raise
            why = str(error)
            if not isinstance(error, Apart):
                why = NO_GRADIENT if cut else f"the search copy failed ({first_line(error)})"
        self._discount(asked)
        answer = by_plain()  # it raises where the copy is not to blame
        self.search.leave(why)
        return answer

    def _discount(self, asked: tuple[int, int]) -> None:
        """Count all that was passed since so much had been asked for as passed to compare."""
        self.compared = self.forwards - asked[0], self.backwards - asked[1]

    @eager
    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        with no_gradient():
            return self._answer(x, LOGITS, lambda engine, x: engine(x))

    @eager
    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Tensor | None = None,
    ) -> Gradient:  # fmt: skip
        def ask(engine: Plain | SearchCopy, x: Tensor) -> Gradient:
            return engine.input_gradient(x, y, loss, targets, direction)

        with with_gradient():
            return self._answer(x, GRADIENT, ask)

    @eager
    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with with_gradient():
            return self._answer(x, JACOBIAN, lambda engine, x: engine.jacobian(x, directions, reduce))

    def bind(
        self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, rows: Tensor | None = None
    ) -> Ask | None:
        self._renew()
        if not self._copied(x):
            return self._as_plain().bind(x, y, loss, targets, rows, self)
        return partial(self.input_gradient, y=y, loss=loss, targets=targets, direction=True)

    def layout(self, x: Tensor) -> Tensor:
        return self.search.layout(x) if self._copied(x) else x

    def full_batch(self, x: Tensor) -> int:
        return self.search.parts.full(x)

    def captures(self, x: Tensor) -> Captures | None:
        if self.options.cuda_graph is False or not waits(x.device):
            return None
        self._renew()  # a replay looks at nothing
        graphs = self.search.captures(x) if self._copied(x) else self._as_plain().captures(x)
        return graphs and replace(graphs, tell=self._tell)

    def _tell(self, why: str) -> None:
        if self.options.cuda_graph:
            self.search.warn(f"not {CAPTURED}: {why}", instead_of=CAPTURED)

    def hold(self, apart: Tensor, verdict: Tensor) -> bool:
        """Compare the search anew where its losses are not those of the verdict."""
        search = self.search
        if self.eot > 1 or bool(apart <= 2 * allowed(verdict, search.formats(verdict.device))):
            return False
        if DENIED in search.notes:  # though it was compared again
            search.leave(DENIED)
        elif not search.idle:
            search.compared.clear()
            search.warn(DENIED)
        return True

    def check(self, x: Tensor) -> bool:
        if self._measures:  # which waits for the batch that is attacked
            return True
        settled = self.settle(x)
        with self._plain.in_eval():
            self._check(x)
        return settled

    def _check(self, x: Tensor) -> None:
        if GRADIENT in self.search.kinds:
            self._tried(partial(self._compare, x, GRADIENT), lambda: None)

    def settle(self, x: Tensor) -> bool:
        """Choose the search copy, and prepare it, on the first batch."""
        if self.settled or len(x) == 0:
            return self.settled
        # A randomized model's next draws do not depend on when it is prepared
        with (
            self._lock,
            self._plain.in_eval(),
            generators_kept(x.device),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            if self.settled:  # another thread has done it meanwhile
                return True
            asked = self.asked
            if not self._measures:
                self.search.prepare(x[:ROWS], self._as_plain())
                self.settled = True
                if self._parts is not None and not self.options.compile:  # as a compiler writes attributes
                    # parts into which a pass may write
                    parts = cast(nn.Module, self.search.module), cast(nn.Module, self.search.model)
                    self._parts = Stamp(*parts, values=False)
            elif choice := fastest(lambda one: Frozen(self.source, replace(self.options, precision=one)), x):
                best, note = choice
                best.add_note(note)
                self.search, self.settled = best.search, True
                self.forwards += best.forwards
                self.backwards += best.backwards
                self.search.counts = self.counts
            self._discount(asked)
            return self.settled
