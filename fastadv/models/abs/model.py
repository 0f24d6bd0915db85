"""ABS: classify an image by the generative model that explains it best."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models._common import check_batch
from fastadv.models.abs import bounds, inference
from fastadv.models.abs.calibrate import calibrate, graded
from fastadv.models.abs.decoder import DecoderShape, decode, shape_of
from fastadv.models.abs.fit import Settings, fit
from fastadv.models.abs.gradient import class_losses, unrolled
from fastadv.models.abs.official import read_official
from fastadv.models.abs.prior import Bank, draw_prior
from fastadv.models.abs.storage import load_abs, save_abs

InputGrad = Literal["none", "envelope", "unrolled"]
INPUT_GRADS = ("none", "envelope", "unrolled")
# found by the paper's authors by line search on MNIST's training set
OFFICIAL_FACTORS = (1.0, 0.96, 1.001, 1.06, 0.98, 0.96, 1.03, 1.0, 1.0, 1.0)
# of an image, for which the paper's beta of 1 is meant
MNIST_VALUES = 784
# images worked on at once: bounds the memory of the decoders' activations, about 1 MB an image of MNIST
CHUNK = 250
# pixels may leave [0, 1] by this much: rounding, and finite differences
SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class Inference:
    """What ABS found for a batch: loss [B, K] a class, the latents [B, K, L] that reach it, and their images [B, K, C, H, W]."""

    loss: Tensor
    latents: Tensor
    reconstruction: Tensor


class ABS(nn.Module):
    """Analysis by Synthesis (Schott et al. 2018): one decoder a class; an image's class is the one whose decoder comes closest to it.

    The class loss is min_z (||G_k(z) - x||^2 + beta/2 ||z||^2) / D, found by a search among `prior_latents` and then `steps` iterations of Adam (the
    last only evaluates), the latents' norm clipped to `max_norm`. Logits are minus the class losses.

    weights, biases   of the decoders, BatchNorm folded in: [K, cin, cout, k, k] and [K, cout] a layer
    binary            Binary ABS: pixels >= 0.5 become 1, others 0, and class losses are multiplied by `factors` [K]
    input_grad        how logits depend on x: "envelope" (exact at a converged latent, cheap), "unrolled" (through every step), "none"
    scale, floor      alpha and eta of the confidence (exp(alpha l) + eta) / sum: 440 and 3.9e-5 for MNIST
    prune             leave classes that can hardly win any more at the best prior sample: their losses are then upper bounds, the others' the same
    precision         "fp32" or "bf16" arithmetic of the latent descent
    x is [B, C, H, W] in [0, 1]. InputError on mismatched or non-finite weights, another image size, or fewer prior samples than classes.
    """

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
        self.steps, self.step_size, self.prune_gain = 50, 0.05, inference.PRUNE_GAIN
        self.card: dict[str, Any] = {}
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight_{i}", weight.detach().float().contiguous())
            self.register_buffer(f"bias_{i}", bias.detach().float().contiguous())
        given = torch.ones(self.classes) if factors is None else torch.as_tensor(factors, dtype=torch.float32)
        if given.shape != (self.classes,) or not bool((given > 0).all()):
            raise InputError(f"factors: expected {self.classes} positive numbers, one a class, got {given.tolist()}")
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
        if latents.ndim != 2 or latents.shape[1] != wanted or len(latents) < self.classes or not bool(latents.isfinite().all()):
            raise InputError(f"prior_latents: expected finite [S, {wanted}] with S >= {self.classes}, got {tuple(latents.shape)}")
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

    def find(self, seen: Tensor, steps: int | None = None, step_size: float | None = None) -> tuple[Tensor, Tensor]:
        """(loss [B, K], latents [B, K, L]) at images as `observed` gives them; no gradient, no class factors."""
        steps, step_size = self.steps if steps is None else steps, self.step_size if step_size is None else step_size
        if steps < 1 or not step_size > 0:
            raise InputError(f"infer: expected steps of at least 1 and a positive step_size, got {steps} and {step_size}")
        with torch.no_grad():
            return (inference.infer_pruned if self.prune else inference.infer_all)(self, seen.detach(), steps, step_size)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, K, C, H, W] of latents [B, K, L]."""
        if latents.ndim != 3 or latents.shape[1:] != (self.classes, self.shape.channels[0]):
            raise InputError(f"latents: expected [B, {self.classes}, {self.shape.channels[0]}], got {tuple(latents.shape)}")
        return decode(latents.to(self.weights[0].dtype), self.weights, self.biases, self.shape.strides)

    def infer(self, x: Tensor, steps: int | None = None, step_size: float | None = None) -> Inference:
        """Losses, latents and reconstructions for every class; no gradient. steps and step_size default to the model's (50 and 0.05)."""
        with torch.no_grad():
            parts = []
            for seen in torch.split(self.observed(x), CHUNK):
                loss, latents = self.find(seen, steps, step_size)
                parts.append((loss * self.factors if self.binary else loss, latents, self.decode(latents)))
            return Inference(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K]: minus the class losses, differentiable in x as `input_grad` says."""
        differentiable = x.requires_grad and torch.is_grad_enabled() and self.input_grad != "none"
        parts = [self._losses(seen, differentiable) for seen in torch.split(self.observed(x), CHUNK)]
        losses = torch.cat(parts)
        return -(losses * self.factors if self.binary else losses)

    def _losses(self, seen: Tensor, differentiable: bool) -> Tensor:
        if not differentiable:
            return self.find(seen)[0]
        if self.input_grad == "unrolled":
            with torch.no_grad():
                _, start = inference.search_prior(self, seen.detach(), self.beta)
            return unrolled(seen, start, self.weights, self.biases, self.shape.strides, self.beta, self.steps, self.step_size, self.max_norm)[0]
        # by the envelope theorem the optimum's own movement does not count: d loss / dx = 2 (x - G(z*)) / D
        _, latents = self.find(seen)
        with torch.no_grad():
            image = self.decode(latents)
        return class_losses(seen, image, latents, self.beta)

    def confidence(self, x: Tensor) -> Tensor:
        """The graded softmax (exp(scale l_k) + floor) / sum over classes, [B, K]; low everywhere for images that no class explains."""
        return graded(self(x), self.scale, self.floor)

    def calibrate(self, x: Tensor, y: Tensor) -> None:
        """Set `factors`, `scale`, `floor` and `prune_gain` from images x [N, C, H, W] with labels y [N].

        The factors of Binary ABS by line search for accuracy, the scale for least cross-entropy, the floor for a median confidence of the predicted
        class of 0.9 (Schott et al. 2018), the gain to the least share of its start that a descent leaves of a loss. A thousand images will do.
        """
        calibrate(self, x, y)

    def lower_bound(self, x: Tensor, y: Tensor, *, norm: Literal["l2", "linf"] = "l2", starts: int = 4, tight: bool = False) -> Tensor:
        """A radius [B] of the norm within which the decision on x [B, ...] stays y [B]; 0 where x is not classified as y.

        A bound as far as the inner minima over latents, searched from `starts` prior samples a class, are global (Schott et al. 2018, section 4).
        `tight` keeps the prior's cost of the other classes' latents, which the paper drops: larger, and still a bound.
        """
        return bounds.lower_bound(self, x, y, norm, starts, tight)

    @classmethod
    def fit(
        cls,
        dataset: Any,
        *,
        epochs: int = 20,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        latents: int = 8,
        width: int = 16,
        shape: DecoderShape | None = None,
        batch_size: int = 160,
        learning_rate: float = 3e-3,
        beta: tuple[float, float] | None = None,
        augment: bool = True,
        training_precision: Literal["fp32", "bf16"] = "fp32",
        seed: int = 0,
        device: str | torch.device | None = None,
        calibration: int = 1000,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Self:
        """Train one VAE a class on `dataset` (tensors x, y, or (image, label) pairs) and keep the decoders; all classes at once.

        Batches hold as many images of each class; a small class repeats. The loss is ||G(z) - x||^2 + beta KL, minimised by Adam at a rate that falls
        to 0 as a cosine. beta goes from its first value to the second over the first half of the epochs, and the model keeps the second. Unless given
        it is D / 784 throughout for images of D values: the misfit grows with them, and 1 is right for MNIST's 784. `augment` warps three in ten
        images slightly.
        `training_precision` "bf16" runs the convolutions in bfloat16, about 1.6 times faster on processors with bfloat16 dot products.

        width          channels of the widest decoder layers (half of the first's); `shape` gives the whole decoder instead
        run_dir        receives checkpoint.safetensors and report.jsonl after each epoch, model.safetensors at the end; with resume=True a
                       stopped run goes on bit for bit
        calibration    training images to set factors, scale and floor by; 0: leave them
        progress       called with (done, total) steps
        options        of the model: binary, prior_samples, ...
        InputError for images of another shape or outside [0, 1], a class without images, arguments that cannot work;
        FloatingPointError for losses that are not finite.
        """
        if shape is None:
            first = dataset.x[0] if isinstance(getattr(dataset, "x", None), Tensor) else dataset[0][0]
            if first.ndim != 3:
                raise InputError(f"dataset: expected images [C, H, W], got {list(first.shape)}")
            shape = DecoderShape.for_images(tuple(first.shape), latents, width)
        beta = (shape.values / MNIST_VALUES,) * 2 if beta is None else beta
        settings = Settings(epochs, shape, width, batch_size, learning_rate, beta, augment, seed, training_precision)
        return fit(cls, dataset, settings, run_dir=run_dir, resume=resume, device=device, progress=progress, calibration=calibration, options=options)

    @classmethod
    def from_official(cls, folder: str | os.PathLike[str], binary: bool = False, **options: Any) -> Self:
        """The model of the authors' ABS_0.net .. ABS_9.net. The prior latents are drawn from `seed` here; set `prior_latents` for theirs."""
        weights, biases = read_official(folder)
        model = cls(weights, biases, DecoderShape().strides, **{"binary": binary, "factors": OFFICIAL_FACTORS, **options})
        model.card = {"source": "the authors' published state dicts"}
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, prior, constants and card as one safetensors file."""
        save_abs(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. CorruptFileError for a damaged or foreign file."""
        return load_abs(cls, path)
