"""Frozen: the model as given for verdicts, and a faster copy for the search."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import partial
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastadv._checks import eager
from fastadv.engine.arguments import indices, labels_for
from fastadv.engine.guard import HALVES, allowance, compare
from fastadv.engine.pipeline import AGAIN, first_line, left_out
from fastadv.engine.plain import Plain
from fastadv.engine.precision import HALF, NOTHING, no_gradient, with_gradient
from fastadv.engine.prepared import CleanPass, Directions, Loss, Model, Prepared
from fastadv.engine.room import GRADIENT, VERDICT
from fastadv.engine.search_copy import SearchCopy
from fastadv.engine.stamp import Stamp
from fastadv.errors import InputError, NoGradientError
from fastadv.rng import generators_kept

T = TypeVar("T")

CHECK_ROWS = 16
REFRESHES = 256
# values of a batch on a CPU, fewer of which pass as in a plain call: a gradient of an image of 32 by 32 takes
# 24 ms so and 26 by the copy for a ResNet-18, 1.6 and 2.1 for a small CNN; with four or eight the copy gains
FEW = 1 << 13
MEASURABLE = 1e-3  # seconds of a pass, below which no note tells how long another precision takes
SLOWER = 1.05  # than the model's own precision, above what two times of one pass differ by
BY_MEANS = "randomized model: the search copy was compared with it by the mean of a few passes"
COPIES = "given copies of x, into which the model writes"
DENIED = "the losses of a search differed from the model's at the same points; passes are compared again"
CHANGED = "the model has changed since freeze; it was frozen again"


class Frozen(Prepared):
    """A classifier frozen by `fastadv.freeze`: it searches on a faster copy, and answers as the model.

    `frozen(x)`, `frozen.input_gradient` and `frozen.jacobian` use the search copy, except on a CPU for few
    values, where it is no faster; `frozen.verdict(x)` and `frozen.model` are the model as given, in eval
    mode. The first pass of each kind is compared with the model, on some of its rows; what was rewritten
    wrongly is switched off by name, with a warning. `forwards` and `backwards` count these comparisons.

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
        self,
        search: SearchCopy,
        *,
        anew: Callable[[], "Frozen"],
        stamp: Stamp | None = None,
        device: torch.device | None = None,
        fastest: Callable[[Tensor], tuple["Frozen", str] | None] | None = None,
    ) -> None:
        super().__init__(search.given, search.source, search.options.eot, search.as_given.weights, device)
        self.search, self.options = search, search.options
        self._fastest, self._refreshed = fastest, 0
        self._anew, self._stamp = anew, stamp
        self._plain: Plain | None = None
        self._failed = False  # whether a plain call has raised what the pipeline may mend
        # whether the search copy was chosen and compared with the model
        self._lock, self.settled = RLock(), fastest is None and search.plain

    def __copy__(self) -> "Frozen":
        """Return one that shares all but what is counted from here on."""
        made = object.__new__(type(self))
        vars(made).update(vars(self), counts=copy(self.counts), _plain=None)
        return made

    @property
    def model(self) -> Model:
        self._renew()
        return self._given.model

    def _renew(self) -> None:
        """Freeze the source anew where it has changed."""
        if self._stamp is None or self._stamp.same():
            return
        with self._lock:
            if self._stamp.same():  # another thread has done it meanwhile
                return
            told, made, self._plain, self._failed = CHANGED in self.notes, self._anew(), None, False
            for name in ("search", "dtype", "_given", "_device", "_fastest", "settled", "_stamp"):
                setattr(self, name, getattr(made, name))
            if told:
                self.add_note(CHANGED)
            else:
                self.search.notes.warn(CHANGED)

    @property
    def notes(self) -> tuple[str, ...]:
        copies = self._given.copies or (self._plain is not None and self._plain.writes_into_x)
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
            self.search.trusted.forget()
            self.settled = self.search.plain

    def layout(self, x: Tensor) -> Tensor:
        return x if self._gains_nothing(x) else self.search.form.layout(x)

    @eager
    def __call__(self, x: Tensor) -> Tensor:
        with no_gradient():
            return self._plainly(x, Plain.__call__, self._logits)

    def _logits(self, x: Tensor) -> Tensor:
        x = self._checked(x)
        self.settle(x)
        self.forwards += self.options.eot * len(x)
        with self._counting():
            return self.search.passed("logits", self.search.logits, x)

    @eager
    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self._plainly(x, Plain.input_gradient, self._gradient, y, loss, targets, direction)

    def _gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss, targets: Tensor | None, direction: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        with with_gradient():
            x = self._checked(x)
            y, targets = indices("y", y), indices("targets", targets)
            y = labels_for(loss, y, targets)
            self.settle(x)
            search, passes = self.search, self.options.eot
            self.forwards += passes * len(x)
            self.backwards += passes * len(x)
            direction = direction and passes == 1
            step = partial(search.gradient, loss=loss, direction=direction)
            whole = callable(loss)  # it may hold one value for each sample of the batch
            # what may still change is not captured
            captures = search.graphs is not None and not whole and self.ready_to_capture(x)
            total: Any = (0.0, 0.0, 0.0)
            key = "gradient", loss, direction
            with self._counting():
                for _ in range(passes):
                    made = search.captured(step, x, y, targets, key) if captures else None
                    if made is None:
                        made = search.passed(GRADIENT, step, x, y, targets, whole=whole)
                    if passes == 1:
                        return made
                    total = [one + more for one, more in zip(total, made, strict=True)]
            value, logits, gradient = total
            return value / passes, logits / passes, gradient / passes

    @eager
    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._plainly(x, Plain.jacobian, self._jacobian, directions, reduce)

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
        if self.search.graphs is not None or not self.settled:
            return None
        return self._kept_plain().clean_pass(x)

    def _kept_plain(self) -> Plain:
        """Return the model as given as a plain call prepares it; the caller has looked at the stamp."""
        if self._plain is None or self.options.follow:  # in which case no stamp is looked at
            self._plain = Plain(self.source, self.eot, self.counts)
        return self._plain

    def _gains_nothing(self, x: object) -> bool:
        """Return whether the search is a plain call's, or loses on so few values, and none has failed."""
        search, form = self.search, self.search.form
        if self._failed or form.compiled or search.graphs is not None or self.dtype in HALVES:
            return False
        few = isinstance(x, Tensor) and x.is_cpu and x.numel() < FEW and not self.options.follow
        chosen = not search.narrow and (self.settled or self._fastest is None)
        loses = few and chosen and form.format == search.as_given.format
        return loses or (self.settled and search.plain and not form.rewriting)

    def searches_as_given(self, x: Tensor) -> bool:
        return self.exact or (self.eot == 1 and self._gains_nothing(x))

    def _plainly(self, x: Tensor, run: Callable[..., T], otherwise: Callable[..., T], *more: Any) -> T:
        """Return run(plain call, x, *more) where that is as fast; otherwise(x, *more), also if it fails."""
        if self._gains_nothing(x):
            self._renew()  # which may have found something to rewrite
        if not self._gains_nothing(x):
            return otherwise(x, *more)
        before = copy(self.counts)
        try:
            # it may be left of a larger batch, in the layout of the search
            return run(self._kept_plain(), x.contiguous(), *more)
        except (InputError, NoGradientError):
            raise
        except Exception as error:  # models raise anything
            why = first_line(error)
        self.forwards, self.backwards = before.forwards, before.backwards
        made = otherwise(x, *more)  # it raises where the model is not to blame
        self._failed = True
        self.add_note(AGAIN.format(why))
        return made

    def full_batch(self, x: Tensor) -> int:
        if x.device.type != "cpu" or not len(x):
            return 0
        with self._counting():
            return self.search.full_batch(x)

    def replayed(self, run: Callable[[Any], list[Tensor]]) -> list[Tensor] | None:
        return self.search.replayed(run)

    def unreplayed(self) -> AbstractContextManager[object]:
        return NOTHING if self.search.graphs is None else self.search.graphs.set_aside()

    def _checked(self, x: object) -> Tensor:
        self._renew()
        return super()._checked(x)

    def _verdict(self, x: Tensor) -> Tensor:
        return self.search.passed(VERDICT, partial(self._given, stays=True), x)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count what the search passes to compare."""
        search = self.search
        before = search.compared_forwards, search.compared_backwards
        yield
        if self.search is not search:
            return
        forwards, backwards = search.compared_forwards - before[0], search.compared_backwards - before[1]
        self.forwards += forwards
        self.backwards += backwards
        self.compared = self.compared[0] + forwards, self.compared[1] + backwards

    def ready_to_capture(self, x: Tensor) -> bool:
        if self.search.graphs is None:
            return False
        self._renew()  # a replay looks at nothing
        return self.settled and self.search.knows(x)

    def hold(self, apart: float, verdict: Tensor) -> None:
        """Compare each kind of pass anew where losses of the search are not those of the verdict."""
        formats = self.search.formats(self.search.form, verdict.device)
        # either loss moves at most twice as far as a logit
        if self.plain or self.eot > 1 or BY_MEANS in self.notes or apart <= 2 * allowance(verdict, formats):
            return
        self.search.trusted.forget()
        if DENIED not in self.notes:
            self.search.notes.warn(DENIED)

    def check(self, x: Tensor) -> bool:
        # a measurement waits for the batch that is attacked
        return self._fastest is not None or self.settle(x)

    def settle(self, x: Tensor, verdict: Tensor | None = None) -> bool:
        """Choose the search copy and compare it with the model, on the first batch that has finite logits.

        In another precision it is compared twice: the bound of that one alone would hide a wrong fold.
        """
        if self.settled or len(x) == 0:
            return self.settled
        # what a randomized model draws next does not depend on when it is compared
        with self._lock, generators_kept(x.device), torch.inference_mode(False), torch.no_grad():
            if self.settled:  # another thread has done it meanwhile
                return True
            if self._fastest is None:
                with self._counting():
                    few = len(x) > CHECK_ROWS and self.search.rows_apart(x)
                self.settled = self._compare(x[:CHECK_ROWS] if few else x, verdict)
            elif (found := self._fastest(x)) is not None:
                best, note = found
                best.add_note(note)
                self.search, self.settled = best.search, True
                self.forwards += best.forwards
                self.backwards += best.backwards
            return self.settled

    def _compare(self, x: Tensor, verdict: Tensor | None) -> bool:
        """Compare the search copy with the model at x, and let it round; return whether logits are finite."""
        given = self.verdict(x) if verdict is None else verdict[: len(x)]
        if not bool(given.isfinite().all(1).any()):
            return False
        if self._agrees(x, given) and self.search.narrow:
            measured = self.options.precision in HALF and not self.search.form.compiled
            own = self._seconds(x) if measured else 0.0
            self.search.use_narrow()
            if self._agrees(x, given) and own > MEASURABLE and (ratio := self._seconds(x) / own) > SLOWER:
                name, dtype = self.options.precision, str(self.dtype).removeprefix("torch.")
                self.add_note(f"{name} takes {ratio:.2f} times as long as {dtype}; use precision='auto'")
        return True

    def _seconds(self, x: Tensor) -> float:
        """Return the time of a pass, after one that prepares kernels."""
        taken = list[float]()
        for _ in range(2):
            started = time.perf_counter()
            self.search.once(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        self.forwards += 2 * len(x)
        return min(taken)

    def _agrees(self, x: Tensor, given: Tensor) -> bool:
        """Return whether the search copy gives the logits `given` at x, if need be without some rewrites."""
        why = self._apart(x, given)
        if why is None:
            return True
        culprit = self.search.leave_culprit(lambda: self._apart(x, given) is None)
        self.search.notes.warn(left_out(culprit, why))
        return culprit is not None

    def _apart(self, x: Tensor, given: Tensor) -> str | None:
        """Return how the search copy differs from the logits `given` at x; None where only by rounding."""
        search = self.search
        try:
            self.forwards += len(x) * (1 + search.learns)
            searched = search.first(x)
        except Exception as error:  # the model as given may do what the copy cannot
            return f"the search copy failed ({error})"
        finite = given.isfinite().all(1)
        formats = search.formats(search.form, x.device)  # the coarsest sets the bound

        def again() -> Tensor:
            self.forwards += len(x)
            return search.passed("first", search.once, x, whole=True)[finite]

        apart, allowed, by_means = compare(
            given[finite], searched[finite], formats, lambda: self.verdict(x)[finite], again
        )
        if by_means:
            search.notes.add(BY_MEANS)
        if not apart <= allowed:
            return f"its logits differ by {apart:.3g}, where rounding allows {allowed:.3g}"
        return None
