"""Frozen: a model as an attack sees it, with an exact twin for verdicts and a fast twin for the search."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.arguments import check_input, indices
from fastadv.engine.confidence import log_confidence
from fastadv.engine.copying.inside import CheckedModel
from fastadv.engine.notes import Lock
from fastadv.engine.options import Options
from fastadv.engine.pipeline import VERDICT, left_out
from fastadv.engine.precision import no_autocast, no_gradient
from fastadv.engine.rounding import compare
from fastadv.engine.search_twin import SearchTwin
from fastadv.errors import InputError
from fastadv.rng import generators_kept

Model = Callable[[Tensor], Tensor]
Loss = losses.Loss

CHECK_ROWS = 16
REFRESHES = 256
BY_MEANS = "randomized model: the search twin was compared with it by the means of a few passes"
COPIES = "given copies of x, into which the model writes"


class Frozen:
    """What `fastadv.freeze` returns: logits and input gradients of a fixed classifier.

    `frozen(x)` and `frozen.input_gradient` use the search twin; `frozen.verdict(x)` and `frozen.model` are
    the model as given, in eval mode. `notes` say what was done to the search twin, and what was not done and
    why. `forwards` and `backwards` count the samples passed since the start, through either twin; passes a
    model makes internally are counted if it reports them in an int `gradient_probes`. `source` and `options`
    are the arguments of `freeze`; `dtype` is that of the weights, to which `verdict` casts x, None where
    there is not exactly one. All passes are out of autocast, whatever is on around them.

    The first batch settles it (`settle`): its search twin is chosen and compared with the model. From then on
    nothing of it changes but the counts. The first gradient of each kind of pass (which functions were
    rewritten, for how many rows of which shape) is compared with that of the model as given, on some of its
    rows; what was rewritten wrongly is switched off by name, with a warning (`engine.guard`). `forwards` and
    `backwards` leave that out.
    """

    def __init__(
        self,
        given: CheckedModel,
        search: SearchTwin,
        *,
        source: Model,
        options: Options,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        fastest: Callable[[Tensor], tuple["Frozen", str] | None] | None = None,
    ) -> None:
        """Take what `freeze` made; `fastest` gives the fastest way to search on a batch, and a note."""
        self.model, self.search = given.model, search
        self.source, self.options, self.dtype = source, options, dtype
        self.forwards = 0
        self.backwards = 0
        self._given, self._device, self._fastest, self._refreshed = given, device, fastest, 0
        self._lock, self._settled = Lock(), fastest is None and search.plain

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the search twin, and what was not done and why."""
        return self.search.notes.texts + ((COPIES,) if self._given.copies else ())

    def add_note(self, note: str) -> None:
        """Take a note, once."""
        self.search.notes.add(note)

    @property
    def plain(self) -> bool:
        """Whether the search twin gives the logits of the verdict twin, to the last bit."""
        return self.search.plain

    @property
    def exact(self) -> bool:
        """Whether the search asks the verdict twin itself, and no mean of several passes."""
        return self.plain and self.options.eot == 1

    @property
    def search_dtype(self) -> torch.dtype | None:
        """The precision in which the search twin computes; None where its weights have not exactly one."""
        return self.search.form.dtype

    @property
    def input_threshold(self) -> float | None:
        """Where the model sets pixels to 0 or 1, if its `input_threshold` says so; otherwise None.

        Only the side of a pixel then counts (`fastadv.models.Binarized`).
        """
        value = getattr(self.model, "input_threshold", None)
        return value if isinstance(value, float) else None

    def describe(self) -> dict[str, Any]:
        """Return the options that can change results, for the identity of a run."""
        return self.options.describe()

    def asks_for(self, ids: Tensor, each: int = 1) -> None:
        """Tell whose rows the next passes are: `each` rows of one sample after another, by their ids [n].

        Where passes are counted for each sample, this is overridden; here nobody listens.
        """

    def refresh(self) -> None:
        """Take the values of a model that trains, where this was made to follow it, as they are now.

        Logits and gradients are compared with the model's again at the next batch and gradient after every
        REFRESHES calls: what rounds little today may round more with other weights.
        """
        self.search.refresh()
        self._refreshed += 1
        if self._refreshed % REFRESHES == 0:
            self.search.trusted.forget()
            self._settled = self.search.plain

    def layout(self, x: Tensor) -> Tensor:
        """Return `x` in the layout the search twin prefers, without a copy where it already has it."""
        return self.search.form.layout(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits [B, K] of the search twin for x [B, ...], the mean of `eot` passes; no gradient.

        Raises InputError where x is no floating tensor on the model's device, or the logits are not [B, K]
        with K >= 2.
        """
        with no_gradient():
            x = check_input(x, self._device)
            self.settle(x)
            self.forwards += self.options.eot * len(x)
            return self.search.passed("logits", self.search.logits, x)

    def verdict(self, x: Tensor) -> Tensor:
        """Return logits [B, K] of the model as given, in eval mode and its own precision."""
        return self._as_given(partial(self.search.passed, VERDICT, self._given), x)

    def confidence(self, x: Tensor) -> Tensor:
        """Return the probability [B, K] that the model as given calls each class, in eval mode.

        It is the model's own `confidence(x)` where it has one, otherwise that of its logits
        (`log_confidence`): the softmax, unless it says otherwise.
        """
        own = getattr(self.model, "confidence", None)
        if not callable(own) or isinstance(own, nn.Module):  # a part of that name is no method
            return log_confidence(self.model, self.verdict(x)).exp()
        return self._as_given(own, x)

    def _as_given(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with no_gradient():
            x = check_input(x, self._device).contiguous()
            self.forwards += len(x)
            with no_autocast(x.device.type):
                found = run(x.to(self.dtype) if self.dtype else x)
            return found.clone()  # the next pass of the model may write into what this one returned

    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss [B], logits [B, K], gradient like x) of a per-sample loss at x [B, ...].

        y may be None where targets, or a loss that does not read it, are given. Losses are summed, so that a
        sample's gradient does not depend on its batch. With `direction` the gradient is right only up to a
        positive factor for each sample and cannot underflow for confident ones; a search in bfloat16 gives
        it in that dtype for x in float32, as the step ops take it. Non-finite values are returned as they
        are. Works under no_grad and inference_mode. Weight gradients are never computed.

        With `eot` > 1 all three are means over as many passes. The gradient is then exact also with
        `direction`, since the mean of directions is not the direction of the mean.

        Raises InputError where x is no floating tensor on the model's device, labels do not fit, or the
        logits are not [B, K] with K >= 2; NoGradientError where they do not depend on x differentiably.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = check_input(x, self._device)
            y, targets = indices("y", y), indices("targets", targets)
            if y is None and isinstance(loss, str):
                if targets is None:
                    raise InputError(
                        f"input_gradient: expected labels or targets for loss {loss!r}, got neither; "
                        "pass y, or a loss of your own"
                    )
                y = targets
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
            with self._counting_probes():
                for _ in range(passes):
                    made = search.captured(step, x, y, targets, key=(loss, direction)) if captures else None
                    if made is None:
                        made = search.passed("gradient", step, x, y, targets, whole=whole)
                    if passes == 1:
                        return made
                    total = [one + more for one, more in zip(total, made, strict=True)]
            value, logits, gradient = total
            return value / passes, logits / passes, gradient / passes

    def jacobian(
        self,
        x: Tensor,
        directions: Tensor | Callable[[Tensor], Tensor],
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (logits [B, K], gradients [B, C, ...] like x) of the functions directions[:, c] @ logits.

        One forward, and C backward passes that share it. `directions` [B, C, K] may also be a function of the
        logits [B, K] of that forward, so that classes can be chosen by them; one-hot rows give rows of the
        Jacobian. With `reduce`, a function of a gradient like x to [B] such as a norm, the results [B, C]
        take the place of the gradients, of which there is one at a time. What `input_gradient` says of grad
        modes, weights and non-finite values holds here too. Neither compiled code nor CUDA graphs are used.
        With `eot` > 1 the gradients are those of the mean logits, and the graphs of all passes are in memory
        at once.

        Raises InputError where x is no floating tensor on the model's device, directions do not fit, or the
        logits are not [B, K] with K >= 2; NoGradientError where they do not depend on x differentiably.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = check_input(x, self._device)
            self.settle(x)
            self.forwards += self.options.eot * len(x)
            with self._counting_probes():
                logits, gradients = self.search.passed(
                    "jacobian", self.search.jacobian, x, directions, reduce, whole=True
                )
            self.backwards += self.options.eot * gradients.shape[:2].numel()
            return logits, gradients

    def full_batch(self, x: Tensor) -> int:
        """Return for how many rows like x [B, ...] a pass on a CPU takes the least time a row; else 0."""
        return self.search.full_batch(x) if x.device.type == "cpu" and len(x) else 0

    @property
    def settled(self) -> bool:
        """Whether the search twin is chosen and compared with the model, where that was asked for."""
        return self._settled

    def ready_to_capture(self, x: Tensor) -> bool:
        """Return whether what is captured for rows like x stays: settled, and its gradient compared."""
        return self._settled and self.search.knows(x)

    def check(self, x: Tensor) -> bool:
        """Return `settle` on rows that stand for others; `tune` waits for the batch that is attacked."""
        return self._fastest is not None or self.settle(x)

    def settle(self, x: Tensor, verdict: Tensor | None = None) -> bool:
        """Choose the search twin and compare it with the model, on the first batch that has finite logits.

        With `tune` the fastest way to search at x [B, ...] is taken, by passes that are not counted. Where
        logits of the search twin differ from those of the model by more than rounding, what is wrong is left.
        In another precision it is compared twice: first in the model's own, since the bound of the other
        would hide a wrong fold. `verdict` are the verdict logits of x where the caller has them. Returns
        whether that has been done, by this call or before.
        """
        if self._settled or len(x) == 0:
            return self._settled
        # what a randomized model draws next does not depend on when it is compared
        with self._lock, generators_kept(x.device), torch.inference_mode(False), torch.no_grad():
            if self._settled:  # by another thread, meanwhile
                return True
            if self._fastest is None:
                self._settled = self._compare(x[:CHECK_ROWS], verdict)
            elif (found := self._fastest(x)) is not None:
                best, note = found
                best.add_note(note)
                self.search, self._settled = best.search, True
            return self._settled

    def _compare(self, x: Tensor, verdict: Tensor | None) -> bool:
        """Compare the search twin with the model at x, and let it round; whether logits are finite."""
        given = self.verdict(x) if verdict is None else verdict[: len(x)]
        if not bool(given.isfinite().all(1).any()):
            return False
        if self._agrees(x, given) and self.search.narrow:
            self.search.use_narrow()
            self._agrees(x, given)
        return True

    def _agrees(self, x: Tensor, given: Tensor) -> bool:
        """Return whether the search twin gives the logits `given` at x, if need be without a rewrite.

        Where it does not, it is replaced by the model as given.
        """
        why = self._apart(x, given)
        if why is None:
            return True
        culprit = self.search.leave_culprit(lambda: self._apart(x, given) is None)
        self.search.notes.warn(left_out(culprit, why))
        return culprit is not None

    def _apart(self, x: Tensor, given: Tensor) -> str | None:
        """Return in what the search twin differs from the logits `given` at x by more than rounding."""
        search = self.search
        try:
            self.forwards += len(x) * (1 + search.learns)
            searched = search.first(x)
        except Exception as error:  # the model as given may do what the changed twin cannot
            return f"the search twin failed ({error})"
        finite = given.isfinite().all(1)
        # the coarser format sets the bound
        rounds = search.form.rounds
        formats = [self.dtype, search.form.dtype] if rounds is None else [rounds]

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

    @contextmanager
    def _counting_probes(self) -> Iterator[None]:
        """Count the samples that parts of the model pass through others to estimate a gradient."""
        before = self.search.probes()
        yield
        self.forwards += self.search.probes() - before
