"""Frozen: a model as an attack sees it, with an exact twin for verdicts and a fast twin for the search."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.arguments import checked_directions, checked_logits, indices, taken
from fastadv.engine.closures import ORIGINAL
from fastadv.engine.confidence import log_confidence
from fastadv.engine.fold import estimates_gradients
from fastadv.engine.graph import GraphedGradient
from fastadv.engine.inside import inside
from fastadv.engine.options import Options
from fastadv.engine.parts import PROBE, Parts
from fastadv.engine.rounding import ROUNDING as ROUNDING
from fastadv.engine.rounding import compare
from fastadv.engine.twin import unwrap
from fastadv.errors import InputError, NoGradientError

log = logging.getLogger("fastadv")

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
    casts x, None where there is not exactly one.
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
        autocast: bool = False,
        to_bfloat16: Callable[[Model], Model] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """`to_bfloat16` converts `search`, once that has passed the check in its own precision."""
        self.model = model
        self.source, self.options = source, options
        self.notes = notes
        self.forwards = 0
        self.backwards = 0
        self._search = search
        self._probing = _probing(search)
        self.dtype = self._search_dtype = dtype
        self._device = device
        self._channels_last, self._autocast = channels_last, autocast
        self._to_bfloat16 = to_bfloat16
        self._graphed = GraphedGradient(self._gradient) if options.cuda_graph else None
        self._checked = search is model and not autocast and to_bfloat16 is None
        self._inside = False
        self._parted = self._parts_of(search)

    @property
    def plain(self) -> bool:
        """Whether the search twin is the verdict twin."""
        return self._search is self.model and not self._autocast and self._to_bfloat16 is None

    @property
    def exact(self) -> bool:
        """Whether the search asks the verdict twin itself, and no mean of several passes."""
        return self.plain and self.options.eot == 1

    @property
    def search_dtype(self) -> torch.dtype | None:
        """The precision in which the search twin computes; None where its weights have not exactly one."""
        return torch.bfloat16 if self._autocast else self._search_dtype

    @property
    def input_threshold(self) -> float | None:
        """Where the model sets pixels to 0 or 1, if its `input_threshold` says so; otherwise None.

        Only the side of a pixel then counts (`fastadv.models.Binarized`).
        """
        value = getattr(self.model, "input_threshold", None)
        return value if isinstance(value, float) else None

    def describe(self) -> dict[str, Any]:
        """The options that can change results, for the identity of a run."""
        return {name: getattr(self.options, name) for name in ("precision", "fold", "compile", "eot")}

    def layout(self, x: Tensor) -> Tensor:
        """`x` in the memory layout the search twin prefers; no copy where it already has it."""
        if self._channels_last and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the search twin for x [B, ...], the mean of `eot` passes; no gradient.

        Raises InputError where x is no floating tensor on the model's device, or the logits are not [B, K]
        with K >= 2.
        """
        with torch.inference_mode(False), torch.no_grad():
            x = taken(x, self._device)
            self.check(x)
            return self._mean_logits(self._ready(x))

    def verdict(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the model as given, in eval mode and its own precision, to which x is cast."""
        with torch.inference_mode(False), torch.no_grad():
            x = taken(x, self._device).contiguous()
            self.forwards += len(x)
            return self._logits(self.model, x.to(self.dtype) if self.dtype else x)

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
            told: Tensor = own(x.to(self.dtype) if self.dtype else x)
            return told

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
        positive factor for each sample and cannot underflow for confident ones. Non-finite values are
        returned as they are. Works under no_grad and inference_mode. Weight gradients are never computed.

        With `eot` > 1 all three are means over as many passes. The gradient is then exact also with
        `direction`, since the mean of directions is not the direction of the mean.

        Raises InputError where x is no floating tensor on the model's device, labels do not fit, or the
        logits are not [B, K] with K >= 2; NoGradientError where they do not depend on x differentiably.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = taken(x, self._device)
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
            once = partial(self._graphed or self._gradient, x, y, loss, targets, direction and passes == 1)
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
            leaf = self._ready(x).detach().requires_grad_()
            # a compiled backward frees what the next one needs
            attached = self._mean_logits(leaf, compiled=False)
            logits = attached.detach()
            chosen = directions(logits) if callable(directions) else directions
            columns = checked_directions(chosen, logits).unbind(1)
            gradients = x.new_empty(len(x), len(columns), *x.shape[1:])
            with self._counting_probes():
                for place, by_logits in enumerate(columns):
                    gradients[:, place] = _pull(attached, leaf, by_logits, retain_graph=True)
            self.backwards += self.options.eot * gradients.shape[:2].numel()
            return logits, gradients

    def check(self, x: Tensor, verdict: Tensor | None = None) -> bool:
        """Compare the search twin with the verdict twin, on the first batch that has finite logits.

        Where they differ by more than rounding, the verdict twin takes over the search. A bfloat16 search
        twin is compared twice: before the conversion with the bound of the model's own precision, since that
        of bfloat16 would hide a wrong fold. `verdict` are the verdict logits of x where the caller has them.
        Returns whether that has been done, by this call or before.
        """
        if self._checked or len(x) == 0:
            return self._checked
        with torch.inference_mode(False), torch.no_grad():
            x = x[:CHECK_ROWS]
            given = self.verdict(x) if verdict is None else verdict[:CHECK_ROWS]
            if not bool(given.isfinite().all(1).any()):
                return False
            self._checked = True
            if self._agrees(x, given) and self._to_bfloat16 is not None:
                self._use(self._to_bfloat16(self._search), torch.bfloat16)
                self._agrees(x, given)
            return True

    def _agrees(self, x: Tensor, given: Tensor) -> bool:
        """Whether the search twin gives the logits `given` at x; where it does not, it is replaced."""
        try:
            self.forwards += len(x)
            searched = self._searched_in_any_layout(x)
        except Exception as error:  # the model as given may do what the changed twin cannot
            self._fall_back(f"the search twin failed ({error})")
            return False
        finite = given.isfinite().all(1)
        # the coarser format sets the bound
        formats = [torch.bfloat16] if self._autocast else [self.dtype, self._search_dtype]

        def search() -> Tensor:
            self.forwards += len(x)
            return self._searched(self._ready(x))[finite]

        apart, allowed, by_means = compare(
            given[finite], searched[finite], formats, lambda: self.verdict(x)[finite], search
        )
        if by_means and BY_MEANS not in self.notes:
            self.notes += (BY_MEANS,)
        if not apart <= allowed:
            self._fall_back(f"its logits differ by {apart:.3g}, where rounding allows {allowed:.3g}")
            return False
        return True

    def _searched_in_any_layout(self, x: Tensor) -> Tensor:
        try:
            return self._searched(self._ready(x))
        except RuntimeError:
            # `view` after a convolution refuses channels-last activations
            if not self._channels_last or not isinstance(self._search, nn.Module):
                raise
            self._search.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self._channels_last = False
            self.notes += ("not channels-last: the model uses view",)
            return self._searched(self._ready(x))

    def _use(self, search: Model, dtype: torch.dtype | None) -> None:
        self._search, self._search_dtype, self._to_bfloat16 = search, dtype, None
        self._probing = _probing(search)
        self._parted = self._parts_of(search)
        if self._graphed is not None:  # what was captured is the former twin
            self._graphed = GraphedGradient(self._gradient)

    def _fall_back(self, why: str) -> None:
        self._autocast = self._channels_last = False
        self._use(self.model, self.dtype)
        note = f"fell back to the model as given: {why}"
        self.notes += (note,)
        log.warning("freeze: %s", note)

    def _gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss, targets: Tensor | None, direction: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        # a function may hold one value for each sample of the batch
        parts = [slice(None)] if callable(loss) else self._parts(x)
        if len(parts) > 1:
            rows = [[None if value is None else value[part] for value in (x, y, targets)] for part in parts]
            found = [self._gradient(cast(Tensor, a), b, loss, c, direction) for a, b, c in rows]
            value, logits, gradient = (torch.cat(each) for each in zip(*found, strict=True))
            return value, logits, gradient
        leaf = self._ready(x).detach().requires_grad_()
        attached = self._searched(leaf)
        logits = attached.detach()
        value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
        return value, logits, _pull(attached, leaf, by_logits).to(x.dtype)

    @contextmanager
    def _counting_probes(self) -> Iterator[None]:
        """Count what parts of the search twin pass through others to estimate a gradient.

        Such a part keeps the number of samples it has passed in `gradient_probes`.
        """
        before = sum(part.gradient_probes for part in self._probing)
        yield
        self.forwards += sum(part.gradient_probes for part in self._probing) - before

    def _ready(self, x: Tensor) -> Tensor:
        """`x` in the layout and precision of the search twin."""
        return self.layout(x).to(self._search_dtype or x.dtype)

    def _parts_of(self, search: Model) -> Parts | None:
        """None for a function, of which nothing is known, and for compiled code, which is for one shape."""
        if (
            self.options.compile
            or not isinstance(self.source, nn.Module)
            or not isinstance(search, nn.Module)
        ):
            return None
        return Parts(self.source, search)

    def _parts(self, x: Tensor) -> list[slice]:
        """The rows that pass the search twin together."""
        rows = max(len(x), 1)
        if self._parted is not None and self._parted.worth_splitting(x):
            # not counted: it is done once for a model, and the cost of a call is not that of what came before
            rows = self._parted.at_once(self._searched, self._ready(x[:PROBE]))
        # of nearly equal size: a model may mind a single row
        count = max(math.ceil(len(x) / rows), 1)
        ends = [math.ceil(len(x) * part / count) for part in range(count + 1)]
        return [slice(*pair) for pair in pairwise(ends)]

    def _mean_logits(self, x: Tensor, compiled: bool = True) -> Tensor:
        parts = [] if x.requires_grad else self._parts(x)
        if len(parts) > 1:
            return torch.cat([self._mean_logits(x[part], compiled) for part in parts])
        passes = self.options.eot
        self.forwards += passes * len(x)
        logits = self._searched(x, compiled)
        for _ in range(passes - 1):
            logits = logits + self._searched(x, compiled)
        return logits if passes == 1 else logits / passes

    def _searched(self, x: Tensor, compiled: bool = True) -> Tensor:
        search = self._search if compiled else _uncompiled(self._search)
        if not self._autocast:
            return self._logits(search, x)
        # the cache would keep stale casts of weights that are being trained
        with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
            return self._logits(search, x)

    def _logits(self, model: Model, x: Tensor) -> Tensor:
        if self._inside or model is not self.model or not len(x):
            logits = model(x)
        else:
            with inside(model):
                logits = model(x)
            self._inside = True
        return checked_logits(logits, len(x))


def _pull(attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
    """The gradient at `leaf` of by_logits @ logits, given the logits `attached` to their graph."""
    gradient = (
        torch.autograd.grad(attached, leaf, by_logits, retain_graph=retain_graph, allow_unused=True)[0]
        if attached.requires_grad
        else None
    )
    if gradient is None:
        raise NoGradientError(
            "model: expected logits that depend on x differentiably, got a model that cuts the graph; "
            "remove its no_grad, detach or integer step, or use an attack without gradients"
        )
    return gradient


def _uncompiled(model: Model) -> Model:
    return unwrap(model) if isinstance(model, nn.Module) else getattr(model, ORIGINAL, model)


def _probing(model: Model) -> list[Any]:
    parts = model.modules() if isinstance(model, nn.Module) else ()
    return [part for part in parts if estimates_gradients(part)]
