"""Frozen: a model as an attack sees it, with an exact twin for verdicts and a fast twin for the search."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.arguments import checked_directions, indices, taken
from fastadv.engine.compared import compared, left_out, without_culprit
from fastadv.engine.confidence import log_confidence
from fastadv.engine.copying.inside import Asking
from fastadv.engine.lock import Lock
from fastadv.engine.notes import Notes
from fastadv.engine.options import Options
from fastadv.engine.precision import no_autocast
from fastadv.engine.rewrite import Rewriting
from fastadv.engine.rounding import compare
from fastadv.engine.search_twin import SearchTwin
from fastadv.errors import InputError

Model = Callable[[Tensor], Tensor]
Loss = losses.Loss

CHECK_ROWS = 16
BY_MEANS = "randomized model: the search twin was compared with it by the means of a few passes"


class Frozen:
    """What `fastadv.freeze` returns: logits and input gradients of a fixed classifier.

    `frozen(x)` and `frozen.input_gradient` use the search twin; `frozen.verdict(x)` and `frozen.model` are
    the model as given, in eval mode. `notes` say what was done to the search twin, and what was not done and
    why. `forwards` and `backwards` count the samples passed since the start, through either twin; those that
    a model passes through its own parts count where it keeps their number in an int `gradient_probes`.
    `source` and `options` are the arguments of `freeze`; `dtype` is that of the weights, to which `verdict`
    casts x, None where there is not exactly one. All passes are out of autocast, whatever is on around them.

    The first gradient of each kind of pass (which functions were rewritten, for how many rows of which shape)
    is compared with that of the model as given, on some of its rows; what was rewritten wrongly is switched
    off by name, with a warning (`engine.guard`). `forwards` and `backwards` leave that out.
    """

    def __init__(
        self,
        model: Model,
        search: Model,
        *,
        source: Model,
        options: Options,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        channels_last: bool = False,
        autocast: torch.dtype | None = None,
        rewriting: Rewriting | None = None,
        narrow: Callable[[SearchTwin], None] | None = None,
        notes: tuple[str, ...] = (),
        tuned: Callable[[Tensor], tuple["Frozen", str]] | None = None,
    ) -> None:
        """`narrow` lets the search twin round more, once that has passed the check in the model's precision.

        `tuned` gives the fastest way to search on the first batch, and a note.
        """
        self.model = model
        self.source, self.options = source, options
        self._notes = Notes(notes)
        self._ask = Asking(model, self._notes)
        self.forwards = 0
        self.backwards = 0
        self.dtype, self._device = dtype, device
        self.search = SearchTwin(
            search, model, self._ask, self._notes, source=source, options=options, dtype=dtype,
            channels_last=channels_last, autocast=autocast, rewriting=rewriting or Rewriting(),
        )  # fmt: skip
        self._narrow, self._tuned, self._lock = narrow, tuned, Lock()
        self._checked = self.plain

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the search twin, and what was not done and why."""
        return self._notes.texts

    @notes.setter
    def notes(self, texts: tuple[str, ...]) -> None:
        self._notes.texts = texts

    @property
    def plain(self) -> bool:
        """Whether the search twin gives the logits of the verdict twin, to the last bit."""
        return self.search.exact and self._narrow is None

    @property
    def exact(self) -> bool:
        """Whether the search asks the verdict twin itself, and no mean of several passes."""
        return self.plain and self.options.eot == 1

    @property
    def search_dtype(self) -> torch.dtype | None:
        """The precision in which the search twin computes; None where its weights have not exactly one."""
        return self.search.dtype

    @property
    def input_threshold(self) -> float | None:
        """Where the model sets pixels to 0 or 1, if its `input_threshold` says so; otherwise None.

        Only the side of a pixel then counts (`fastadv.models.Binarized`).
        """
        value = getattr(self.model, "input_threshold", None)
        return value if isinstance(value, float) else None

    def describe(self) -> dict[str, Any]:
        """The options that can change results, for the identity of a run."""
        told = {name: getattr(self.options, name) for name in ("precision", "fold", "compile", "eot")}
        return told | ({"tune": True} if self.options.tune else {})

    def layout(self, x: Tensor) -> Tensor:
        """`x` in the memory layout the search twin prefers; no copy where it already has it."""
        return self.search.layout(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the search twin for x [B, ...], the mean of `eot` passes; no gradient.

        Raises InputError where x is no floating tensor on the model's device, or the logits are not [B, K]
        with K >= 2.
        """
        with torch.inference_mode(False), torch.no_grad():
            x = taken(x, self._device)
            self.check(x)
            self.forwards += self.options.eot * len(x)
            return self.search.logits(self.search.ready(x))

    def verdict(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the model as given, in eval mode and its own precision, to which x is cast."""
        with torch.inference_mode(False), torch.no_grad():
            x = taken(x, self._device).contiguous()
            self.forwards += len(x)
            given = x.to(self.dtype) if self.dtype else x
            with no_autocast(x.device.type):
                logits = self.search.fitted(partial(self._ask, self.model), "verdict", given)
            return logits.clone()  # the next pass of the model may write into what this one returned

    def confidence(self, x: Tensor) -> Tensor:
        """The probability [B, K] that the model as given calls each class, in eval mode.

        It is the model's own `confidence(x)` where it has one, otherwise that of its logits
        (`log_confidence`): the softmax, unless it says otherwise.
        """
        own = getattr(self.model, "confidence", None)
        if not callable(own) or isinstance(own, nn.Module):  # a part of that name is no method
            return log_confidence(self.model, self.verdict(x)).exp()
        with torch.inference_mode(False), torch.no_grad():
            x = taken(x, self._device).contiguous()
            self.forwards += len(x)
            with no_autocast(x.device.type):
                told: Tensor = own(x.to(self.dtype) if self.dtype else x)
            return told.clone()

    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss [B], logits [B, K], gradient like x) of a per-sample loss at x [B, ...].

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
            x = taken(x, self._device)
            self.tune(x)
            y, targets = indices("y", y), indices("targets", targets)
            if y is None and isinstance(loss, str):
                if targets is None:
                    raise InputError(
                        f"input_gradient: expected labels or targets for loss {loss!r}, got neither; "
                        "pass y, or a loss of your own"
                    )
                y = targets
            self.check(x)
            passes = self.options.eot
            self.forwards += passes * len(x)
            self.backwards += passes * len(x)
            # what the check may still change is not captured
            passing = self.search.captured if self.ready_to_capture(x) else self.search.gradient
            once = partial(passing, x, y, loss, targets, direction and passes == 1)
            with self._counting_probes():
                value, logits, gradient = once()
                for _ in range(passes - 1):
                    more = once()
                    value, logits, gradient = value + more[0], logits + more[1], gradient + more[2]
            return (
                (value, logits, gradient)
                if passes == 1
                else (value / passes, logits / passes, gradient / passes)
            )

    def jacobian(self, x: Tensor, directions: Tensor | Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(logits [B, K], gradients [B, C, ...] like x) of the functions directions[:, c] @ logits at x.

        One forward, and C backward passes that share it. `directions` [B, C, K] may also be a function of the
        logits [B, K] of that forward, so that classes can be chosen by them; one-hot rows give rows of the
        Jacobian. What `input_gradient` says of grad modes, weights and non-finite values holds here too.
        Neither compiled code nor CUDA graphs are used. With `eot` > 1 the gradients are those of the mean
        logits, and the graphs of all passes are in memory at once.

        Raises InputError where x is no floating tensor on the model's device, directions do not fit, or the
        logits are not [B, K] with K >= 2; NoGradientError where they do not depend on x differentiably.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = taken(x, self._device)
            self.check(x)
            self.forwards += self.options.eot * len(x)
            while True:
                with self._counting_probes():
                    logits, chosen, gradients, used = self.search.safely(partial(self._rows, x, directions))
                # one of them, where there is one
                by_logits, first = chosen[:, :1].sum(1), gradients[:, :1].sum(1)
                if compared(self.search, used, x, by_logits, first):
                    break
            self.backwards += self.options.eot * gradients.shape[:2].numel()
            return logits, gradients

    def _rows(
        self, x: Tensor, directions: Tensor | Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Hashable]:
        """Logits, checked directions and gradients of `jacobian`, and what was rewritten."""
        leaf = self.search.ready(x).detach().requires_grad_()
        attached, used = self.search.attached(leaf)
        logits = attached.detach()
        chosen = checked_directions(directions(logits) if callable(directions) else directions, logits)
        columns = chosen.unbind(1)
        gradients = x.new_empty(len(x), len(columns), *x.shape[1:])
        for place, by_logits in enumerate(columns):
            gradients[:, place] = self.search.pulled(attached, leaf, by_logits, retain_graph=True)
        return logits, chosen, gradients, used

    @property
    def settled(self) -> bool:
        """Whether the search goes on as it is: tuned and checked, where that was asked for."""
        return self._tuned is None and self._checked

    def ready_to_capture(self, x: Tensor) -> bool:
        """Whether what is captured for rows like x stays: settled, and its gradient compared."""
        return self.settled and self.search.knows(x)

    def tune(self, x: Tensor) -> None:
        """Search from now on as is fastest at x [B, ...], where `freeze` was asked for that.

        Done once, for the first batch of all attacks, whose passes are not counted.
        """
        if self._tuned is None or len(x) == 0:
            return
        with self._lock:
            if self._tuned is None:  # by another thread, meanwhile
                return
            best, note = self._tuned(x)
            self.model, self.search, self.dtype = best.model, best.search, best.dtype
            self._ask, self._notes = best._ask, best._notes
            self._narrow, self._checked = best._narrow, best._checked
            self._notes.add(note)
            self._tuned = None

    def check(self, x: Tensor, verdict: Tensor | None = None) -> bool:
        """Compare the search twin with the verdict twin, on the first batch that has finite logits.

        Where they differ by more than rounding, the verdict twin takes over the search. A search twin in
        another precision is compared twice: first in the model's own, since the bound of the other would hide
        a wrong fold. `verdict` are the verdict logits of x where the caller has them.
        Returns whether that has been done, by this call or before.
        """
        if self._checked or len(x) == 0:
            return self._checked
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if self._checked:  # by another thread, meanwhile
                return True
            x = x[:CHECK_ROWS]
            given = self.verdict(x) if verdict is None else verdict[:CHECK_ROWS]
            if not bool(given.isfinite().all(1).any()):
                return False
            narrow, self._narrow = self._narrow, None
            if self._agrees(x, given) and narrow is not None:
                narrow(self.search)
                self._agrees(x, given)
            self._checked = True
            return True

    def _agrees(self, x: Tensor, given: Tensor) -> bool:
        """Whether the search twin gives the logits `given` at x, if need be without a rewrite.

        Where it does not, it is replaced by the model as given.
        """
        why = self._apart(x, given)
        if why is None:
            return True
        culprit = without_culprit(self.search, lambda: self._apart(x, given) is None)
        self._notes.warn(left_out(culprit, why))
        return culprit is not None

    def _apart(self, x: Tensor, given: Tensor) -> str | None:
        """In what the search twin differs from the logits `given` at x by more than rounding."""
        try:
            self.forwards += len(x) * (1 + self.search.learns)
            searched = self.search.tried(x)
        except Exception as error:  # the model as given may do what the changed twin cannot
            return f"the search twin failed ({error})"
        finite = given.isfinite().all(1)
        # the coarser format sets the bound
        rounds = self.search.rounds
        formats = [self.dtype, self.search.dtype] if rounds is None else [rounds]

        def search() -> Tensor:
            self.forwards += len(x)
            return self.search.once(self.search.ready(x))[finite]

        apart, allowed, by_means = compare(
            given[finite], searched[finite], formats, lambda: self.verdict(x)[finite], search
        )
        if by_means:
            self._notes.add(BY_MEANS)
        if not apart <= allowed:
            return f"its logits differ by {apart:.3g}, where rounding allows {allowed:.3g}"
        return None

    @contextmanager
    def _counting_probes(self) -> Iterator[None]:
        """Count what parts of the search twin pass through others to estimate a gradient."""
        before = self.search.probes()
        yield
        self.forwards += self.search.probes() - before
