"""The generative models of ABS: K decoders, the prior samples every search starts from, and the constants of inference."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models._common import check_batch
from fastadv.models.abs.decoder import decode, shape_of
from fastadv.models.abs.prior import Bank, draw_prior

InputGrad = Literal["none", "envelope", "unrolled"]
INPUT_GRADS = ("none", "envelope", "unrolled")
# what a descent leaves of the loss at its start, at least: with the authors' weights 99.8% of the losses of 3,000 training images keep more
PRUNE_GAIN = 0.385
# pixels may leave [0, 1] by this much: rounding, and finite differences
SLACK = 1e-3


class Generators(nn.Module):
    """What inference, bounds, calibration and files work on; `ABS` makes a classifier of it and describes the arguments."""

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        strides: Sequence[int],
        *,
        beta: float = 1.0,
        binary: bool = False,
        factors: Sequence[float] | None = None,
        prior_samples: int = 8000,
        seed: int = 0,
        scale: float = 440.0,
        floor: float = 3.9e-5,
        max_norm: float = 5.0,
        input_grad: InputGrad = "envelope",
        prune: bool = False,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        super().__init__()
        if input_grad not in INPUT_GRADS:
            raise InputError(f"input_grad: expected one of {', '.join(INPUT_GRADS)}, got {input_grad!r}")
        if precision not in ("fp32", "bf16"):
            raise InputError(f"precision: expected fp32 or bf16, got {precision!r}")
        self.shape = shape_of(weights, biases, strides)
        self.classes = len(weights[0])
        self.beta, self.binary, self.scale, self.floor, self.max_norm = beta, binary, scale, floor, max_norm
        self.input_grad, self.prune, self.precision = input_grad, prune, precision
        self.steps, self.step_size, self.prune_gain = 50, 0.05, PRUNE_GAIN
        self.card: dict[str, Any] = {}
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight_{i}", weight.detach().float().contiguous())
            self.register_buffer(f"bias_{i}", bias.detach().float().contiguous())
        given = torch.ones(self.classes) if factors is None else torch.as_tensor(factors, dtype=torch.float32)
        if given.shape != (self.classes,) or not bool((given > 0).all()):
            raise InputError(
                f"factors: expected {self.classes} positive numbers, one a class, got {given.tolist()}"
            )
        self.factors: Tensor
        self.register_buffer("factors", given.clone())
        self._prior: Tensor
        self.register_buffer("_prior", torch.empty(0))
        self.prior_latents = draw_prior(prior_samples, self.shape.channels[0], seed)
        self.eval()

    @property
    def weights(self) -> list[Tensor]:
        """The decoders' weights, a layer each."""
        return [getattr(self, f"weight_{i}") for i in range(len(self.shape.kernels))]

    @property
    def biases(self) -> list[Tensor]:
        """The decoders' biases, a layer each."""
        return [getattr(self, f"bias_{i}") for i in range(len(self.shape.kernels))]

    @property
    def prior_latents(self) -> Tensor:
        """The latents [S, L] that every search starts from; settable."""
        return self._prior

    @prior_latents.setter
    def prior_latents(self, latents: Tensor) -> None:
        wanted = self.shape.channels[0]
        if (
            latents.ndim != 2
            or latents.shape[1] != wanted
            or len(latents) < self.classes
            or not bool(latents.isfinite().all())
        ):
            raise InputError(
                f"prior_latents: expected finite [S, {wanted}] with S >= {self.classes}, got {tuple(latents.shape)}"
            )
        self._prior = latents.detach().to(self.weights[0]).contiguous()
        self._bank = Bank()

    def bank(self) -> Tensor:
        """Images [K, S, D] of the prior latents under every class; decoded at first use and shared by copies."""
        parts = self._prior, self.weights, self.biases, self.shape.strides
        images = self._bank.images(*parts)
        if images is None:
            self._bank = Bank()
            images = self._bank.images(*parts)
        assert images is not None
        return images

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # half the bits are too few for weights and prior: model.to(torch.bfloat16) means bf16 arithmetic in the descent
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype not in (torch.bfloat16, torch.float16):
                return moved
            self.precision = "bf16"
            return tensor.to(moved.device)

        super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return self

    def observed(self, x: Tensor) -> Tensor:
        """The image as the model sees it: x, or x set to 0 and 1 at the threshold 0.5 with a gradient that passes straight through."""
        x = check_batch(x, self.shape.image).to(self.weights[0].dtype)
        if x.numel() and not (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            low, high = (float(value) for value in x.detach().aminmax())
            if not (low >= -SLACK and high <= 1 + SLACK):  # false for NaN too
                raise InputError(f"x: expected pixels in [0, 1], got {low:.4g} to {high:.4g}; rescale them")
        return x + ((x >= 0.5).to(x.dtype) - x).detach() if self.binary else x

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, K, C, H, W] of latents [B, K, L]."""
        if latents.ndim != 3 or latents.shape[1:] != (self.classes, self.shape.channels[0]):
            raise InputError(
                f"latents: expected [B, {self.classes}, {self.shape.channels[0]}], got {tuple(latents.shape)}"
            )
        return decode(latents.to(self.weights[0].dtype), self.weights, self.biases, self.shape.strides)
