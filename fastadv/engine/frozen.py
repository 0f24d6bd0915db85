"""Frozen: a model as an attack sees it, with an exact twin for verdicts and a fast twin for the search."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.graph import GraphedGradient
from fastadv.engine.inside import inside
from fastadv.errors import InputError

log = logging.getLogger("fastadv")

Model = Callable[[Tensor], Tensor]
Loss = losses.Loss

CHECK_ROWS = 16
# The largest difference of centered logits, as a share of their spread, that rounding may cause. Through tens
# of layers float32 stays below 1e-4 (TF32 convolutions below 1e-3), bfloat16 and float16 below a tenth.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Options:
    """What was asked of `freeze`."""

    precision: Literal["fp32", "bf16"] = "fp32"
    fold: bool = True
    compile: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.precision, str) or self.precision not in ("fp32", "bf16"):
            raise InputError(f'freeze: expected precision "fp32" or "bf16", got {self.precision!r}')
        for name in ("fold", "compile", "cuda_graph"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"freeze: expected True or False for {name}, got {getattr(self, name)!r}")


class Frozen:
    """What `fastadv.freeze` returns: logits and input gradients of a fixed classifier.

    `frozen(x)` and `frozen.input_gradient` use the search twin; `frozen.verdict(x)` and `frozen.model` are
    the model as given, in eval mode. `notes` say what was done to the search twin, and what was not done and
    why. `forwards` and `backwards` count the samples passed since the start, through either twin.
    `source` and `options` are the arguments of `freeze`.
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
        self._dtype = self._search_dtype = dtype
        self._device = device
        self._channels_last, self._autocast = channels_last, autocast
        self._to_bfloat16 = to_bfloat16
        self._graphed = GraphedGradient(self._gradient) if options.cuda_graph else None
        self._checked = search is model and not autocast and to_bfloat16 is None
        self._inside = False

    @property
    def exact(self) -> bool:
        """Whether the search twin is the verdict twin itself."""
        return self._search is self.model and not self._autocast and self._to_bfloat16 is None

    def describe(self) -> dict[str, Any]:
        """The options that can change results (precision, fold, compile), for the identity of a run."""
        return {name: getattr(self.options, name) for name in ("precision", "fold", "compile")}

    def layout(self, x: Tensor) -> Tensor:
        """`x` in the memory layout the search twin prefers; no copy where it already has it."""
        if self._channels_last and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the search twin for x [B, ...]; no gradient.

        Raises InputError where x is no floating tensor on the model's device, or the logits are not [B, K]
        with K >= 2.
        """
        with torch.inference_mode(False), torch.no_grad():
            x = self._taken(x)
            self.check(x)
            self.forwards += len(x)
            return self._searched(self._ready(x))

    def verdict(self, x: Tensor) -> Tensor:
        """Logits [B, K] of the model as given, in eval mode and its own precision, to which x is cast."""
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

        y may be None where targets, or a loss that does not read it, are given. Losses are summed, so that a
        sample's gradient does not depend on its batch. With `direction` the gradient is right only up to a
        positive factor for each sample and cannot underflow for confident ones. Non-finite values are
        returned as they are. Works under no_grad and inference_mode. Weight gradients are never computed.

        Raises InputError where x is no floating tensor on the model's device, labels do not fit, or the
        logits are not [B, K] with K >= 2 or do not depend on x differentiably.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = self._taken(x)
            y, targets = self._indices("y", y), self._indices("targets", targets)
            if y is None and isinstance(loss, str):
                if targets is None:
                    raise InputError(
                        f"input_gradient: expected labels or targets for loss {loss!r}, got neither; "
                        "pass y, or a loss of your own"
                    )
                y = targets
            self.check(x)
            self.forwards += len(x)
            self.backwards += len(x)
            if self._graphed is not None:
                return self._graphed(x, y, loss, targets, direction)
            return self._gradient(x, y, loss, targets, direction)

    def check(self, x: Tensor, verdict: Tensor | None = None) -> None:
        """Compare the search twin with the verdict twin, on the first batch that has finite logits.

        Where they differ by more than rounding, the verdict twin takes over the search. A bfloat16 search
        twin is compared twice: before the conversion with the bound of the model's own precision, since that
        of bfloat16 would hide a wrong fold. `verdict` are the verdict logits of x where the caller has them.
        """
        if self._checked or len(x) == 0:
            return
        with torch.inference_mode(False), torch.no_grad():
            x = x[:CHECK_ROWS]
            given = self.verdict(x) if verdict is None else verdict[:CHECK_ROWS]
            if not bool(given.isfinite().all(1).any()):
                return
            self._checked = True
            if self._agrees(x, given) and self._to_bfloat16 is not None:
                self._use(self._to_bfloat16(self._search), torch.bfloat16)
                self._agrees(x, given)

    def _agrees(self, x: Tensor, given: Tensor) -> bool:
        """Whether the search twin gives the logits `given` at x; where it does not, it is replaced."""
        try:
            self.forwards += len(x)
            searched = self._searched_in_any_layout(x)
        except Exception as error:  # the model as given may do what the changed twin cannot
            self._fall_back(f"the search twin failed ({error})")
            return False
        finite = given.isfinite().all(1)
        searched, given = searched[finite].double(), given[finite].double()
        # the coarser format sets the bound; a shift common to all logits of a row changes no decision
        formats = [torch.bfloat16] if self._autocast else [self._dtype, self._search_dtype]
        bound = max((ROUNDING[d] for d in formats if d in ROUNDING), default=ROUNDING[torch.float32])
        centered = given - given.mean(1, keepdim=True)
        difference = float((searched - searched.mean(1, keepdim=True) - centered).abs().max())
        allowed = float(bound * centered.abs().max() + 8 * torch.finfo(torch.float32).eps * given.abs().max())
        if not difference <= allowed:
            self._fall_back(f"its logits differ by {difference:.3g}, where rounding allows {allowed:.3g}")
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
        if self._graphed is not None:  # what was captured is the former twin
            self._graphed = GraphedGradient(self._gradient)

    def _fall_back(self, why: str) -> None:
        self._autocast = self._channels_last = False
        self._use(self.model, self._dtype)
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
                "input_gradient: expected logits that depend on x differentiably, got a model that cuts "
                "the graph; remove its no_grad, detach or integer step, or use an attack without gradients"
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
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0:
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"x: expected a floating tensor [B, ...], got {got}; convert it")
        if self._device is not None and x.device != self._device:
            raise InputError(
                f"x: expected a tensor on {self._device}, where the model is, got {x.device}; move it"
            )
        return x.clone() if x.is_inference() else x.detach()

    @staticmethod
    def _indices(name: str, given: Tensor | None) -> Tensor | None:
        if given is not None and not isinstance(given, Tensor):
            raise InputError(f"{name}: expected a tensor of classes [B] or None, got {type(given).__name__}")
        # the graph of a callable loss may save them, which inference tensors refuse
        return given.clone() if given is not None and given.is_inference() else given

    def _logits(self, model: Model, x: Tensor) -> Tensor:
        if self._inside or model is not self.model or not len(x):
            logits = model(x)
        else:
            with inside(model):
                logits = model(x)
            self._inside = True
        rows = logits if isinstance(logits, Tensor) and logits.is_floating_point() else None
        if rows is None or rows.ndim != 2 or len(rows) != len(x):
            got = type(logits).__name__
            if isinstance(logits, Tensor):
                got = f"{logits.dtype} {tuple(logits.shape)}"
            raise InputError(
                f"model: expected floating logits [B, K] with B = {len(x)}, got {got}; "
                "wrap it so that it returns them"
            )
        if rows.shape[1] < 2:
            raise InputError(
                f"model: expected at least two classes, got logits {tuple(rows.shape)}; "
                "for one logit z return torch.cat([torch.zeros_like(z), z], dim=1)"
            )
        return rows if rows.dtype == torch.float64 else rows.float()


def is_conv2d(model: nn.Module) -> bool:
    """Whether the module holds a two-dimensional convolution, which is faster in channels-last layout."""
    return any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in model.modules())
