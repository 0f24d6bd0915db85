"""Gradients by central differences, for models that have none or hide theirs."""

from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastadv._checks import check_count, check_number
from fastadv.engine import Model, Prepared
from fastadv.engine.copying.twin import as_module
from fastadv.errors import InputError
from fastadv.ops._rows import clamp_box
from fastadv.threat import Linf

# Values in a batch of probes by default. On a CPU activations should stay in the cache: 500 MNIST images pass
# a convolutional network in half the time that each takes among 1,000. A GPU wants full batches.
BATCH_VALUES = {"cpu": 1 << 18, "cuda": 1 << 23}
LEAST_BATCH = 32


def estimated_gradient(
    model: Model | Prepared,
    step: float,
    *,
    batch_size: int | None = None,
    box: tuple[float, float] = (0.0, 1.0),
) -> "EstimatedGradient":
    """Return a model for gradient attacks with the same logits, and gradients estimated from them.

    The derivative of the logits z with respect to coordinate i is (z(x+) - z(x-)) / (x+_i - x-_i): x+ and x-
    are x with that coordinate moved by `step` up and down, and clipped to the box. It costs 2 D samples an
    image, 1,568 for MNIST, however many functions of the logits are differentiated at x. Where the box lets a
    coordinate move neither way, the derivative is 0. Foolbox's CoordinateWiseGradientEstimator, which the
    paper uses, takes differences of the cross-entropy, and divides by 2 `step` also where the box has cut a
    move short.

    Samples must be in float32 or float64: in bfloat16 the differences would be rounding errors.

    Args:
        model: module or function of x [B, ...] that returns logits [B, K]; of a Frozen, its source is taken.
        step: how far a coordinate moves, > 0, in input units: small compared with the scale on which logits
            bend, large compared with their rounding error. A model that binarizes needs one that crosses the
            threshold.
        batch_size: samples that pass the model at a time, >= 2; None is 334 MNIST images on a CPU, and more
            of smaller images or on a GPU.
        box: (lo, hi) of valid inputs.

    Returns:
        A module of x [B, ...] that returns logits [B, K] and can be differentiated.

    Raises:
        InputError: an argument is wrong; the message names it.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> estimated = fa.attacks.estimated_gradient(model, 0.01)
        >>> bool(fa.attacks.fgsm(estimated, x, y, fa.Linf(0.3)).success.all())
        True

    Source:
        Schott et al. 2018 (arXiv 1805.09190), who attack ABS with estimated gradients.
    """
    if not check_number("step", step, 0) > 0:
        raise InputError(f"step: expected a number > 0, got {step!r}")
    if batch_size is not None:
        check_count("batch_size", batch_size, 2)
    source = model.source if isinstance(model, Prepared) else model
    if not callable(source):
        raise InputError(f"model: expected a module or a function of x, got {type(model).__name__}")
    return EstimatedGradient(source, float(step), batch_size, Linf(torch.inf, box).box)


class _AsGiven:
    """A function that copies of the module around it share."""

    def __init__(self, function: Model) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class EstimatedGradient(nn.Module):
    """What `estimated_gradient` returns. `gradient_probes` counts the samples passed for gradients."""

    def __init__(self, model: Model, step: float, batch_size: int | None, box: tuple[float, float]) -> None:
        super().__init__()
        _leave_out_of_compilation()
        self.model = as_module(model) or _AsGiven(model)
        self.step, self.batch_size, self.box = step, batch_size, box
        self.gradient_probes = 0

    @property
    def input_threshold(self) -> float | None:
        threshold: float | None = getattr(self.model, "input_threshold", None)
        return threshold

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"estimated_gradient: expected x in float32 or float64, got {x.dtype}, whose rounding errors "
                "exceed the differences; use a model in float32"
            )
        logits: Tensor = _Estimate.apply(x, self)  # type: ignore[no-untyped-call]
        return logits

    @torch.no_grad()
    def jacobian(self, x: Tensor) -> Tensor:
        """Return the estimated derivatives [B, D, K] of the logits by each coordinate of x [B, ...]."""
        rows = x.flatten(1)
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        values = rows.shape[1]
        budget = BATCH_VALUES.get(x.device.type, BATCH_VALUES["cuda"])
        batch_size = self.batch_size or max(LEAST_BATCH, budget // max(1, values))
        parts = []
        for places in torch.split(torch.arange(rows.numel(), device=x.device), batch_size // 2):
            probes, at = rows[places // values], (places % values)[:, None]
            own = probes.gather(1, at)
            above, below = (clamp_box(own + move, *self.box) for move in (self.step, -self.step))
            probes = torch.cat([probes.scatter(1, at, above), probes.scatter(1, at, below)])
            self.gradient_probes += len(probes)
            logits = self.model(probes.view(-1, *x.shape[1:]).contiguous(memory_format=layout))
            logits = logits if logits.dtype == torch.float64 else logits.float()
            upper, lower = logits.chunk(2)
            parts.append(torch.where(above == below, 0.0, (upper - lower) / (above - below)))
        return torch.cat(parts).view(*rows.shape, parts[0].shape[1])


@cache
def _leave_out_of_compilation() -> None:
    """Have torch.compile break its graph at `forward`, whose backward pass it cannot trace.

    Not a decorator of the class: that would import the compiler, which takes longer than all of fastadv.
    """
    forward = torch.compiler.disable(EstimatedGradient.forward)  # type: ignore[no-untyped-call]
    EstimatedGradient.forward = forward  # type: ignore[method-assign]


class _Estimate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: EstimatedGradient) -> Tensor:
        ctx.save_for_backward(x)
        ctx.owner, ctx.jacobian = owner, None
        logits: Tensor = owner.model(x)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logits: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.jacobian is None:  # further backward passes through this graph share it
            ctx.jacobian = ctx.owner.jacobian(x)
        gradient = ctx.jacobian @ by_logits.to(ctx.jacobian.dtype)[:, :, None]
        return gradient.view(x.shape), None
