"""Frozen: the model as given for verdicts, and a faster copy for the search."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv._checks import eager
from fastadv._waiting import waits
from fastadv.engine.arguments import check_input, indices, labels_for
from fastadv.engine.bound import Ask
from fastadv.engine.capture import CAPTURED, Captures, graphs_of, in_step, kind_of, passes_alike
from fastadv.engine.guard import HALVES, allowed
from fastadv.engine.plain import Plain
from fastadv.engine.precision import no_gradient, with_gradient
from fastadv.engine.prepared import CleanPass, Directions, Loss, Model, Prepared
from fastadv.engine.room import GRADIENT, VERDICT
from fastadv.engine.search_copy import BY_MEANS, Apart, SearchCopy
from fastadv.engine.stamp import Stamp
from fastadv.errors import InputError, NoGradientError
from fastadv.rng import generators_kept
from fastadv.text import first_line

T = TypeVar("T")

CHECK_ROWS = 16
REFRESHES = 256
# values of a batch on a CPU, fewer of which pass as in a plain call: a gradient of an image of 32 by 32 takes
# 24 ms so and 26 by the copy for a ResNet-18, 1.6 and 2.1 for a small CNN; with four or eight the copy gains
FEW = 1 << 13
COPIES = "given copies of x, into which the model writes"
DENIED = "the losses of a search differed from the model's at the same points; passes are compared again"
CHANGED = "the model has changed since freeze; it was frozen again"


class Frozen(Prepared):
    """A classifier frozen by `fastadv.freeze`: it searches on a faster copy, and answers as the model.

    `frozen(x)`, `frozen.input_gradient` and `frozen.jacobian` use the search copy, except on a CPU for few
    values, where it is no faster; `frozen.verdict(x)` and `frozen.model` are the model as given, in eval
    mode. The first pass of each shape and dtype is compared with the model, on 16 of its rows; where it
    differs, the model replaces the copy, with a warning. `forwards` and `backwards` count these comparisons.

    It is never stale: each call looks whether the model's tensors, parts, attributes, modes and hooks are
    what they were. If not, `source` is frozen anew by the same options, and the counts go on; a note and, the
    first time, a line in the log say so. So does a copy by `copy.deepcopy` or `pickle`, which counts from 0.

    Call `fastadv.freeze` to make one; the arguments below are for the engine.

    Args:
        search: the search copy.
        anew: freezes the source again by the same options.
        stamp: of the model as it was frozen; None where it is not looked at.
        device: of the weights; None where there is none.
        fastest: gives the fastest way to search on a batch, and a note; None does not look for it.

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

    def __init__(
        self, search: SearchCopy, *, anew: Callable[[], "Frozen"], stamp: Stamp | None = None,
        device: torch.device | None = None,
        fastest: Callable[[Tensor], tuple["Frozen", str] | None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(search.given, search.source, search.options.eot, search.as_given.weights, device)
        self.search, self.options = search, search.options
        self._fastest, self._refreshed = fastest, 0
        self._anew, self._stamp = anew, stamp
        self._plain: Plain | None = None
        # whether the search copy was chosen and prepared
        self._lock, self.settled = RLock(), fastest is None and search.plain

    def __copy__(self) -> "Frozen":
        """Return one that shares all but what is counted from here on."""
        made = cast(Frozen, super().__copy__())
        made._plain = None  # which counts for this one
        return made

    @property
    def model(self) -> Model:
        self._renew()
        return self.checked.model

    def _renew(self) -> None:
        """Freeze the source anew where it has changed."""
        if self._stamp is None or self._stamp.same():
            return
        with self._lock:
            if self._stamp.same():  # another thread has done it meanwhile
                return
            told, made, self._plain = CHANGED in self.notes, self._anew(), None
            for name in ("search", "dtype", "checked", "_device", "_fastest", "settled", "_stamp"):
                setattr(self, name, getattr(made, name))
            if told:
                self.add_note(CHANGED)
            else:
                self.search.notes.warn(CHANGED)

    @property
    def notes(self) -> tuple[str, ...]:
        copies = self.checked.copies or (self._plain is not None and self._plain.writes_into_x)
        return self.search.notes.texts + ((COPIES,) if copies else ())

    def add_note(self, note: str) -> None:
        self.search.notes.add(note)

    @property
    def plain(self) -> bool:
        return self.search.plain

    @property
    def search_dtype(self) -> torch.dtype | None:
        return self.search.form.weights

    def describe(self) -> dict[str, Any]:
        return self.options.describe()

    def refresh(self) -> None:
        """Take the current values of a model that trains, if this was made to follow it."""
        self.search.refresh()
        self._refreshed += 1
        if self._refreshed % REFRESHES == 0:  # what rounds little today may round more with other weights
            self.search.compared.clear()

    def layout(self, x: Tensor) -> Tensor:
        return x if self._gains_nothing(x) else self.search.form.layout(x)

    @eager
    def __call__(self, x: Tensor) -> Tensor:
        with no_gradient():
            return self._answer(x, self._logits, Plain.__call__)

    def _logits(self, x: Tensor) -> Tensor:
        x = self._checked(x)
        self.settle(x)
        self.forwards += self.options.eot * len(x)
        with self._counting():
            return self.search.passed("logits", self.search.logits, x)

    @eager
    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        return self._answer(x, self._gradient, Plain.input_gradient, y, loss, targets, direction)

    def _gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss, targets: Tensor | None, direction: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        with with_gradient():
            x = self._checked(x)
            y, targets = indices("y", y), indices("targets", targets)
            y = labels_for(loss, y, targets)
            self.settle(x)
            search, passes = self.search, self.options.eot
            self.count(passes * len(x))
            direction = direction and passes == 1
            step = partial(search.gradient, loss=loss, direction=direction)
            whole = callable(loss)  # it may hold one value for each sample of the batch
            total: Any = (0.0, 0.0, 0.0)
            with self._counting():
                for _ in range(passes):
                    made = search.passed(GRADIENT, step, x, y, targets, whole=whole)
                    if passes == 1:
                        return made
                    total = [one + more for one, more in zip(total, made, strict=True)]
            value, logits, gradient = total
            return value / passes, logits / passes, gradient / passes

    def bind(self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None) -> Ask | None:
        if self.eot > 1:
            return None
        if self._gains_nothing(x):
            self._renew()
        if self._gains_nothing(x):
            return self._kept_plain().bind(x, y, loss, targets, self)
        return lambda points: self.input_gradient(points, y, loss, targets, True)

    @eager
    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._answer(x, self._jacobian, Plain.jacobian, directions, reduce)

    def _jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        with with_gradient():
            x = self._checked(x)
            self.settle(x)
            self.forwards += self.options.eot * len(x)
            with self._counting():
                logits, gradients = self.search.passed(
                    "jacobian", self.search.jacobian, x, directions, reduce, whole=True
                )
            self.backwards += self.options.eot * gradients.shape[:2].numel()
            return logits, gradients

    def clean_pass(self, x: Tensor) -> CleanPass | None:
        # by the model as given, where one pass serves the verdict and the gradient
        self._renew()
        # its graph would stay in memory while the copy is compared
        if not self.settled:
            return None
        return self._kept_plain().clean_pass(x)

    def _kept_plain(self) -> Plain:
        """Return the model as given as a plain call prepares it; the caller has looked at the stamp."""
        if self._plain is None or self.options.follow:  # in which case no stamp is looked at
            self._plain = Plain(self.source, self.eot, self.counts)
        return self._plain

    def _gains_nothing(self, x: object) -> bool:
        """Return whether the search is a plain call's, or loses on so few values."""
        search, form = self.search, self.search.form
        if search.left:
            return True
        if form.compiled or self.options.cuda_graph or self.dtype in HALVES:
            return False
        few = isinstance(x, Tensor) and x.is_cpu and x.numel() < FEW and not self.options.follow
        chosen = not search.narrow and (self.settled or self._fastest is None)
        loses = few and chosen and form.format == search.as_given.format
        return loses or (self.settled and search.plain and not form.rewriting)

    def searches_as_given(self, x: Tensor) -> bool:
        return self.exact or (self.eot == 1 and self._gains_nothing(x))

    def _answer(self, x: Tensor, search: Callable[..., T], plain: Callable[..., T], *more: Any) -> T:
        """Return search(x, *more); plain(plain call, x, *more) where that is as fast, or the search fails."""
        if self._gains_nothing(x):
            self._renew()  # which may have found something to rewrite

        def otherwise() -> T:
            # it may be left of a larger batch, in the layout of the search
            return plain(self._kept_plain(), check_input(x, self._device).contiguous(), *more)

        return otherwise() if self._gains_nothing(x) else self._searched(partial(search, x, *more), otherwise)

    def _searched(self, search: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """Return search(); where the copy fails or is not the model, `otherwise` by that, from now on."""
        asked = self.asked
        try:
            return search()
        except (InputError, NoGradientError):
            raise
        except Exception as error:  # models raise anything
            if in_step():
                raise
            why = str(error) if isinstance(error, Apart) else f"the search copy failed ({first_line(error)})"
        self._discount(asked)
        made = otherwise()  # it raises where the copy is not to blame
        self.search.leave(why)
        return made

    def _discount(self, asked: tuple[int, int]) -> None:
        """Count all that was passed since so much had been asked for as passed to compare."""
        self.compared = self.forwards - asked[0], self.backwards - asked[1]

    def full_batch(self, x: Tensor) -> int:
        if x.device.type != "cpu" or not len(x):
            return 0
        with self._counting():
            return self.search.full_batch(x)

    def _checked(self, x: object) -> Tensor:
        self._renew()
        return super()._checked(x)

    def _verdict(self, x: Tensor) -> Tensor:
        return self.search.passed(VERDICT, partial(self.checked, stays=True), x)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count what the search passes to compare."""
        search, asked = self.search, self.asked
        before = search.compared_forwards, search.compared_backwards
        try:
            yield
        finally:
            self.forwards += search.compared_forwards - before[0]
            self.backwards += search.compared_backwards - before[1]
            self._discount(asked)

    def captures(self, x: Tensor) -> Captures | None:
        if self.options.cuda_graph is False or self.eot > 1 or not waits(x.device):
            return None
        self._renew()  # a replay looks at nothing
        search, model = self.search, self.search.form.model
        if not (self.settled and search.knows(x) and isinstance(model, nn.Module)):
            return None  # what may still change is not captured
        kind, form = kind_of(cast(nn.Module, self.checked.model)), search.form
        if kind is None:
            return None

        def alike() -> bool:
            return search.rows_apart(x) and passes_alike(model, search.once, x)

        tell = self._tell_captured if self.options.cuda_graph else None
        return Captures(graphs_of(search), (kind, id(form)), form, alike, tell)

    def _tell_captured(self, why: str) -> None:
        self.search.notes.warn(f"not {CAPTURED}: {why}", instead_of=CAPTURED)

    def hold(self, apart: Tensor, verdict: Tensor) -> bool:
        """Compare the search anew where its losses are not those of the verdict."""
        formats = self.search.formats(self.search.form, verdict.device)
        if self.eot > 1 or BY_MEANS in self.notes or bool(apart <= 2 * allowed(verdict, formats)):
            return False
        if not self.plain:
            self.search.compared.clear()
            if DENIED not in self.notes:
                self.search.notes.warn(DENIED)
        return True

    def check(self, x: Tensor) -> bool:
        # a measurement waits for the batch that is attacked
        return self._fastest is not None or self.settle(x)

    def settle(self, x: Tensor) -> bool:
        """Choose the search copy, and prepare it, on the first batch."""
        if self.settled or len(x) == 0:
            return self.settled
        # what a randomized model draws next does not depend on when it is prepared
        with self._lock, generators_kept(x.device), torch.inference_mode(False), torch.no_grad():
            if self.settled:  # another thread has done it meanwhile
                return True
            asked = self.asked
            if self._fastest is None:
                with self._counting():
                    few = x[:CHECK_ROWS] if len(x) > CHECK_ROWS and self.search.rows_apart(x) else x
                    self._searched(partial(self.search.prepare, few), lambda: self.verdict(few))
                self.settled = True
            elif (found := self._fastest(x)) is not None:
                best, note = found
                best.add_note(note)
                self.search, self.settled = best.search, True
                self.forwards += best.forwards
                self.backwards += best.backwards
            self._discount(asked)
            return self.settled
