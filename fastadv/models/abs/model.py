"""ABS: classify an image by the generative model that explains it best."""

import os
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.models.abs import bounds, inference
from fastadv.models.abs.calibrate import calibrate, graded
from fastadv.models.abs.decoder import DecoderShape
from fastadv.models.abs.fit import Settings, fit
from fastadv.models.abs.generators import Generators
from fastadv.models.abs.gradient import class_losses, unrolled
from fastadv.models.abs.inference import Inference
from fastadv.models.abs.official import read_official
from fastadv.models.abs.storage import load_abs, save_abs

# found by the paper's authors by line search on MNIST's training set
OFFICIAL_FACTORS = (1.0, 0.96, 1.001, 1.06, 0.98, 0.96, 1.03, 1.0, 1.0, 1.0)
# of an image, for which the paper's beta of 1 is meant
MNIST_VALUES = 784


class ABS(Generators):
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

    def infer(self, x: Tensor, steps: int | None = None, step_size: float | None = None) -> Inference:
        """Losses, latents and reconstructions for every class; no gradient. steps and step_size default to the model's (50 and 0.05)."""
        return inference.infer(self, x, steps, step_size)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K]: minus the class losses, differentiable in x as `input_grad` says."""
        differentiable = x.requires_grad and torch.is_grad_enabled() and self.input_grad != "none"
        parts = [
            self._losses(seen, differentiable) for seen in torch.split(self.observed(x), inference.CHUNK)
        ]
        losses = torch.cat(parts)
        return -(losses * self.factors if self.binary else losses)

    def _losses(self, seen: Tensor, differentiable: bool) -> Tensor:
        if not differentiable:
            return inference.find(self, seen)[0]
        if self.input_grad == "unrolled":
            with torch.no_grad():
                _, start = inference.search_prior(self, seen.detach(), self.beta)
            return unrolled(
                seen,
                start,
                self.weights,
                self.biases,
                self.shape.strides,
                self.beta,
                self.steps,
                self.step_size,
                self.max_norm,
            )[0]
        # by the envelope theorem the optimum's own movement does not count: d loss / dx = 2 (x - G(z*)) / D
        _, latents = inference.find(self, seen)
        with torch.no_grad():
            image = self.decode(latents)
        return class_losses(seen, image, latents, self.beta)

    def confidence(self, x: Tensor) -> Tensor:
        """The graded softmax (exp(scale l_k) + floor) / sum over classes, [B, K]; low everywhere for images that no class explains."""
        return graded(self(x), self.scale, self.floor)

    def calibrate(self, x: Tensor, y: Tensor) -> None:
        """Set `factors`, `scale`, `floor` and `prune_gain` from images x [N, C, H, W] with labels y [N].

        The factors of Binary ABS by line search for accuracy, the scale for least cross-entropy, the floor for a median confidence of the predicted
        class of 0.9 (Schott et al. 2018), the gain to the least share of its start that a descent leaves of a loss.
        A thousand images will do; of few, none of them misread, the scale comes out too large.
        """
        calibrate(self, x, y)

    def lower_bound(
        self,
        x: Tensor,
        y: Tensor,
        *,
        norm: Literal["l2", "linf"] = "l2",
        starts: int = 4,
        tight: bool = False,
    ) -> Tensor:
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
        settings = Settings(
            epochs, shape, width, batch_size, learning_rate, beta, augment, seed, training_precision
        )
        return fit(
            cls,
            dataset,
            settings,
            run_dir=run_dir,
            resume=resume,
            device=device,
            progress=progress,
            calibration=calibration,
            options=options,
        )

    @classmethod
    def from_official(cls, folder: str | os.PathLike[str], binary: bool = False, **options: Any) -> Self:
        """The model of the authors' ABS_0.net .. ABS_9.net. The prior latents are drawn from `seed` here; set `prior_latents` for theirs."""
        weights, biases = read_official(folder)
        model = cls(
            weights,
            biases,
            DecoderShape().strides,
            **{"binary": binary, "factors": OFFICIAL_FACTORS, **options},
        )
        model.card = {"source": "the authors' published state dicts"}
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, prior, constants and card as one safetensors file."""
        save_abs(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. CorruptFileError for a damaged or foreign file."""
        return load_abs(cls, path)
