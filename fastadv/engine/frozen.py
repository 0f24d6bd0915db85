"""Frozen: a model as an attack sees it, with an exact twin for verdicts and a fast twin for the search."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.graph import GraphedGradient
from fastadv.errors import InputError

log = logging.getLogger("fastadv")

Model = Callable[[Tensor], Tensor]
Loss = losses.Loss

CHECK_ROWS = 16
# Largest difference of centred logits, as a share of their spread, that rounding may cause: through tens of layers
# float32 stays below 1e-4 (TF32 convolutions below 1e-3), bfloat16 and float16 below a tenth. A wrong fold is of order 1.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Options:
    """What was asked of `freeze`."""

    precision: Literal["fp32", "bf16"] = "fp32"
    fold: bool = True
    compile: bool = False
    cuda_graph: bool = False


class Frozen:
    """What `fastadv.freeze` returns: logits and input gradients of a fixed classifier.

    `frozen(x)` and `frozen.input_gradient` use the search twin; `frozen.verdict(x)` and `frozen.model` are the model
    as given, in eval mode. `notes` say what was done to the search twin and why something was not.
    `forwards` and `backwards` count the samples passed since the start, through either twin.
    """

    def __init__(
        self,
        model: Model,
        search: Model,
        *,
        dtype: torch.dtype | None = None,
        search_dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        channels_last: bool = False,
        autocast: bool = False,
        cuda_graph: bool = False,
        options: Options = Options(),
        notes: tuple[str, ...] = (),
    ) -> None:
        self.model = model
        self.options = options
        self.notes = notes
        self.forwards = 0
        self.backwards = 0
        self._search = search
        self._dtype, self._search_dtype, self._device = dtype, search_dtype, device
        self._channels_last, self._autocast = channels_last, autocast
        self._graphed = GraphedGradient(self._gradient) if cuda_graph else None
        self._checked = search is model and not autocast

    @property
    def exact(self) -> bool:
        """Whether the search twin is the verdict twin itself, so that what it finds needs no second look."""
        return self._search is self.model and not self._autocast

    def describe(self) -> dict[str, Any]:
        """The options that can change results: precision, fold and compile, as JSON values for a run's identity."""
        return {name: getattr(self.options, name) for name in ("precision", "fold", "compile")}

    def layout(self, x: Tensor) -> Tensor:
        """`x` in the memory layout the search twin prefers; no copy where it already has it."""
        if self._channels_last and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the search twin for x [B, ...]; no gradient. InputError where they are not [B, K] with K >= 2."""
        with torch.inference_mode(False), torch.no_grad():
            x = self._taken(x)
            self.check(x)
            self.forwards += len(x)
            return self._searched(self._ready(x))

    def verdict(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the model as given, in eval mode and in its own precision; x is cast to the model's dtype."""
        with torch.inference_mode(False), torch.no_grad():
            x = self._taken(x).contiguous()
            self.forwards += len(x)
            return self._logits(self.model, x.to(self._dtype) if self._dtype else x)

    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss [B], logits [B, K], gradient like x) of a per-sample loss at x [B, ...].

        y may be None where targets, or a loss that does not read it, are given. Losses are summed, so that a sample's
        gradient does not depend on its batch. With `direction` the gradient is right only up to a positive factor for
        each sample and cannot underflow for confident ones. Non-finite values are returned as they are. Works under
        no_grad and inference_mode. Weight gradients are never computed.

        Raises InputError where the logits are not [B, K] with K >= 2, or do not depend on x differentiably.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = self._taken(x)
            if y is None and isinstance(loss, str):
                if targets is None:
                    raise InputError(
                        f"input_gradient: expected labels or targets for loss {loss!r}, got neither; pass y, or a loss of your own"
                    )
                y = targets
            self.check(x)
            self.forwards += len(x)
            self.backwards += len(x)
            if self._graphed is not None:
                return self._graphed(x, y, loss, targets, direction)
            return self._gradient(x, y, loss, targets, direction)

    def check(self, x: Tensor, verdict: Tensor | None = None) -> None:
        """On the first batch with finite logits: fall back to the exact twin where the search twin differs by more than rounding.

        `verdict` are the verdict logits of x where the caller has them.
        """
        if self._checked or len(x) == 0:
            return
        with torch.inference_mode(False), torch.no_grad():
            x = x[:CHECK_ROWS]
            given = self.verdict(x) if verdict is None else verdict[:CHECK_ROWS]
            finite = given.isfinite().all(1)
            if not finite.any():
                return
            self._checked = True
            try:
                self.forwards += len(x)
                found = self._searched_in_any_layout(x)
            except Exception as error:  # whatever the changed twin trips over, the model as given may not
                self._fall_back(f"the search twin failed ({error})")
                return
            self._compare(found[finite], given[finite])

    def _searched_in_any_layout(self, x: Tensor) -> Tensor:
        try:
            return self._searched(self._ready(x))
        except RuntimeError:
            # `view` after a convolution refuses channels-last activations
            if not self._channels_last or not isinstance(self._search, nn.Module):
                raise
            self._search = self._search.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self._channels_last = False
            self.notes += ("not channels-last: the model uses view",)
            return self._searched(self._ready(x))

    def _compare(self, found: Tensor, given: Tensor) -> None:
        found, given = found.double(), given.double()
        # the coarser of the two formats sets the bound; a shift common to all logits of a row changes no decision
        formats = (
            [torch.bfloat16]
            if self._autocast
            else [d for d in (self._dtype, self._search_dtype) if d in ROUNDING]
        )
        bound = max((ROUNDING[d] for d in formats if d), default=ROUNDING[torch.float32])
        centred = given - given.mean(1, keepdim=True)
        difference = float((found - found.mean(1, keepdim=True) - centred).abs().max())
        allowed = float(bound * centred.abs().max() + 8 * torch.finfo(torch.float32).eps * given.abs().max())
        if not difference <= allowed:
            self._fall_back(f"its logits differ by {difference:.3g}, where rounding allows {allowed:.3g}")

    def _fall_back(self, why: str) -> None:
        self._search, self._search_dtype, self._autocast, self._channels_last = (
            self.model,
            self._dtype,
            False,
            False,
        )
        note = f"fell back to the model as given: {why}"
        self.notes += (note,)
        log.warning("freeze: %s", note)

    def _gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss, targets: Tensor | None, direction: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        leaf = self._ready(x).detach().requires_grad_()
        attached = self._searched(leaf)
        logits = attached.detach()
        value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
        gradient = (
            torch.autograd.grad(attached, leaf, by_logits, allow_unused=True)[0]
            if attached.requires_grad
            else None
        )
        if gradient is None:
            raise InputError(
                "input_gradient: expected logits that depend on x differentiably, got a model that cuts the graph; "
                "remove its no_grad, detach or integer step, or use an attack that needs no gradient"
            )
        return value, logits, gradient.to(x.dtype)

    def _ready(self, x: Tensor) -> Tensor:
        """`x` in the layout and precision of the search twin."""
        return self.layout(x).to(self._search_dtype or x.dtype)

    def _searched(self, x: Tensor) -> Tensor:
        if not self._autocast:
            return self._logits(self._search, x)
        # the cache would keep stale casts of weights that are being trained
        with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
            return self._logits(self._search, x)

    def _taken(self, x: Tensor) -> Tensor:
        if self._device is not None and x.device != self._device:
            raise InputError(
                f"x: expected a tensor on {self._device}, where the model is, got {x.device}; move one to the other"
            )
        return x.clone() if x.is_inference() else x.detach()

    @staticmethod
    def _logits(model: Model, x: Tensor) -> Tensor:
        logits = model(x)
        if (
            not isinstance(logits, Tensor)
            or not logits.is_floating_point()
            or logits.ndim != 2
            or len(logits) != len(x)
        ):
            got = (
                f"{logits.dtype} {tuple(logits.shape)}"
                if isinstance(logits, Tensor)
                else type(logits).__name__
            )
            raise InputError(
                f"model: expected floating logits [B, K] with B = {len(x)}, got {got}; wrap it so that it returns them"
            )
        if logits.shape[1] < 2:
            raise InputError(
                f"model: expected at least two classes, got logits {tuple(logits.shape)}; for one logit z return "
                "torch.cat([torch.zeros_like(z), z], dim=1)"
            )
        return logits if logits.dtype == torch.float64 else logits.float()


def is_conv2d(model: nn.Module) -> bool:
    """Whether the module holds a two-dimensional convolution, for which channels-last is the faster layout."""
    return any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in model.modules())
