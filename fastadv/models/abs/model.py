"""ABS: classify an image by the generative model that explains it best."""

import copy
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_count, check_device
from fastadv.card import card
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from fastadv.models.abs import bounds
from fastadv.models.abs.decoder import Decoders, DecoderShape, VAEs
from fastadv.models.abs.fit import Settings, read_images, train
from fastadv.models.abs.inference import Inference, LatentSearch, check_labels
from fastadv.models.abs.options import (
    InferenceOptions,
    class_factors,
    confidence_floor,
    confidence_scale,
    graded,
    least_share,
    log_graded,
)
from fastadv.models.abs.prior import PriorBank, draw_prior
from fastadv.models.abs.storage import checked_factors, read_abs, read_official, write_abs
from fastadv.models.wrappers import THRESHOLD
from fastadv.progress import Lines, Progress, check_progress, shown
from fastadv.text import several

# The paper's authors chose these by line search on MNIST's training set.
OFFICIAL_FACTORS = (1.0, 0.96, 1.001, 1.06, 0.98, 0.96, 1.03, 1.0, 1.0, 1.0)
# Values of an MNIST image, for which the paper's beta of 1 is meant.
MNIST_VALUES = 784


class ABS(nn.Module):
    """Analysis by Synthesis: an image's class is the one whose decoder reconstructs it best.

    The class loss is min_z (||G_k(z) - x||^2 + beta/2 ||z||^2) / D. It is found by a search among the prior
    samples and then `steps` iterations of Adam, of which the last only evaluates. Called with x [B, C, H, W]
    in [0, 1], of any floating dtype, it returns logits [B, K]: minus the class losses. Inference runs in the
    precision of the weights. A sample with NaN gets NaN logits, and other samples of its batch are
    unaffected.

    Its parts are `decoders` (with BatchNorm folded in), `prior` (the latents that every search starts from,
    and their images), `options` (`with_options` returns a model with others) and `factors`. Usually a model
    comes from `ABS.fit`, `ABS.load` or `ABS.from_official`.

    Args:
        weights: of the decoders' layers, each [K, cin, cout, k, k].
        biases: of the decoders' layers, each [K, cout].
        strides: of the decoders' layers.
        factors: [K], of Binary ABS; None is 1.
        prior_samples: how many latents every search starts from.
        seed: of the prior samples.
        options: of inference, by the names in `InferenceOptions`, such as `binary=True`.

    Raises:
        InputError: weights do not fit or are not finite, another image size, or fewer prior samples than
            classes.

    Example:
        >>> import torch, fastadv as fa
        >>> weights, biases = [torch.rand(10, 2, 1, 8, 8)], [torch.zeros(10, 1)]  # one layer, two latents
        >>> model = fa.models.ABS(weights, biases, [1], prior_samples=50)
        >>> inferred = model.infer(torch.rand(4, 1, 8, 8), steps=5)
        >>> tuple(inferred.loss.shape), tuple(inferred.reconstruction.shape)
        ((4, 10), (4, 10, 1, 8, 8))

    Source:
        Schott et al. 2018, "Towards the First Adversarially Robust Neural Network Model on MNIST" (arXiv
        1805.09190).
    """

    factors: Tensor

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int], *,
        factors: Sequence[float] | Tensor | None = None, prior_samples: int = 8000, seed: int = 0,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.options = InferenceOptions().changed(**options)
        self.decoders = Decoders(weights, biases, strides)
        self.prior_latents = draw_prior(prior_samples, self.decoders.latents, seed)
        self.register_buffer(
            "factors", checked_factors([1.0] * self.classes if factors is None else factors, self.classes)
        )
        self.card: dict[str, Any] = {}
        self.eval()

    @property
    def shape(self) -> DecoderShape:
        """The decoders' shape; `shape.image` is (C, H, W)."""
        return self.decoders.shape

    @property
    def classes(self) -> int:
        """The number of classes K."""
        return self.decoders.classes

    @property
    def input_threshold(self) -> float | None:
        """Where Binary ABS sets pixels to 0 and 1, as in `models.Binarized`; None for plain ABS."""
        return THRESHOLD if self.options.binary else None

    @property
    def weights(self) -> list[Tensor]:
        """The decoders' weights, layer by layer."""
        return self.decoders.weights

    @property
    def biases(self) -> list[Tensor]:
        """The decoders' biases, layer by layer."""
        return self.decoders.biases

    @property
    def prior_latents(self) -> Tensor:
        """The latents [S, L] that every search starts from; settable."""
        return self.prior.latents

    @prior_latents.setter
    def prior_latents(self, latents: Tensor) -> None:
        self.prior = PriorBank.checked(latents, self.decoders)

    def with_options(self, **changes: Any) -> Self:
        """Return a model with other options that shares this one's tensors, and its bank of prior images."""
        twin = copy.deepcopy(self, {id(tensor): tensor for tensor in self.buffers()})
        twin.options = self.options.changed(**changes)
        return twin

    def bank(self) -> Tensor:
        """Return images of the prior latents under every class; they are decoded at first use."""
        return self.prior.images(self.decoders)

    def observed(self, x: Tensor) -> Tensor:
        """Return the image as the model sees it: x, or for Binary ABS x set to 0 and 1 at 0.5."""
        return self._search().observed(x)

    def infer(self, x: Tensor, steps: int | None = None, step_size: float | None = None) -> Inference:
        """Fit every class to images [B, C, H, W] in [0, 1], without a gradient."""
        options = {"steps": steps, "step_size": step_size}
        changes = {name: value for name, value in options.items() if value is not None}
        return self._search(self.options.changed(**changes)).infer(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]: minus the class losses, differentiable in x as `input_grad` says.

        The values are those of `infer`, bit for bit, with and without a gradient.
        """
        return -self._search().losses(x)

    def confidence(self, x: Tensor) -> Tensor:
        """Return the graded softmax (exp(scale l_k) + floor) / sum over classes.

        It is low for all classes where none explains the image.
        """
        return graded(self(x), self.options.scale, self.options.floor)

    def log_confidence(self, logits: Tensor) -> Tensor:
        """Return the logarithm of the graded softmax."""
        return log_graded(logits, self.options.scale, self.options.floor)

    def calibrate(self, x: Tensor, y: Tensor) -> None:
        """Set `factors`, `scale`, `floor` and `prune_gain` from labeled images.

        The factors of Binary ABS are those of the best accuracy, the scale has the least cross-entropy, and
        the floor brings the median confidence of the predicted class to 0.9, as in the paper. The gain is the
        share of its first loss above which nearly every descent ends. A thousand images are enough; with few,
        none of them misclassified, the scale is too large.
        """
        if not len(x):
            raise InputError("calibrate: expected at least one image, got an empty batch")
        check_labels(y, x, self.classes)
        if not bool(x.isfinite().all()):
            raise InputError("calibrate: expected finite images, got NaN or infinite pixels; leave these out")
        plain = self.options.changed(prune=False)
        unweighed = LatentSearch(
            self.decoders, self.prior, plain.changed(binary=True), torch.ones_like(self.factors)
        )
        factors = class_factors(unweighed.infer(x).loss, y)
        search = LatentSearch(self.decoders, self.prior, plain, factors)
        losses = search.infer(x).loss
        first = dataclasses.replace(search, options=plain.changed(steps=1)).infer(x).loss
        scale = confidence_scale(losses, y)
        floor = confidence_floor(losses, scale)
        self.options = self.options.changed(prune_gain=least_share(first, losses), scale=scale, floor=floor)
        self.factors = factors.to(self.factors)  # not in place: models of `with_options` share the old ones

    def lower_bound(
        self, x: Tensor, y: Tensor, *, norm: Literal["l2", "linf", "l0"] = "l2", starts: int = 4,
        tight: bool = False,
    ) -> Tensor:  # fmt: skip
        """Compute a radius within which the decision stays right.

        It is 0 where the decision for x [B, C, H, W] is not y [B]. It is a bound if the minima over latents
        are global. Computed in single precision or wider.

        Args:
            x: images.
            y: their labels.
            norm: that of the radius, "l2" or "linf"; for Binary ABS also "l0".
            starts: prior samples a class, from which the minima are searched.
            tight: keep the prior's cost of the other classes' latents, which the paper drops in L2 and for
                Binary ABS: the bound is larger and still holds.

        Source:
            Schott et al. 2018 (arXiv 1805.09190), section 4.
        """
        return bounds.lower_bound(self._search(), x, y, norm, starts, tight)

    @classmethod
    def fit(
        cls, dataset: Any, *, epochs: int = 20, latents: int = 8, width: int = 16,
        shape: DecoderShape | None = None, batch_size: int = 160, learning_rate: float = 3e-3,
        beta: tuple[float, float] | None = None,
        augment: bool = True, training_precision: Literal["fp32", "bf16"] = "fp32", seed: int = 0,
        device: str | torch.device | None = None, calibration: int = 1000, progress: Progress = False,
        **options: Any,
    ) -> Self:  # fmt: skip
        """Train one VAE for each class, all at once, and keep the decoders.

        Batches hold the same number of images of each class; a small class repeats. The loss is ||G(z) -
        x||^2 + beta KL, minimized by Adam at a rate that falls to 0 as a cosine. Arguments are checked before
        the first epoch.

        Args:
            dataset: has tensors x and y, or is a sequence of pairs (image, label).
            epochs: passes through the data.
            latents: L, the dimension of the latent space.
            width: channels of the widest decoder layers but the first, which has twice as many.
            shape: the whole decoder, replacing `latents` and `width`.
            batch_size: images of a step.
            learning_rate: of Adam, at first.
            beta: weight of the KL term, its first and its second value, between which it moves over the first
                half of the epochs; None is D / 784 throughout for images of D values, which is 1 for MNIST.
            augment: warp three in ten images slightly.
            training_precision: "fp32", or "bf16" to run the convolutions in bfloat16.
            seed: of weights, order, augmentation and prior samples.
            device: where to train; None is the CPU.
            calibration: training images to set factors, scale and floor by; 0 leaves them.
            progress: True shows a bar on stderr, with the epoch and the loss of the one before; a function is
                called with (done, total) steps.
            options: of the model: prior_samples, factors, and the fields of `InferenceOptions`.
        """
        images = read_images(dataset)
        if shape is None:
            shape = DecoderShape.for_images(images.x.shape[1:], latents, width)
        if not isinstance(shape, DecoderShape):
            raise InputError(f"shape: expected a DecoderShape, got {shape!r}; or give latents and width")
        beta = (shape.values / MNIST_VALUES,) * 2 if beta is None else beta
        settings = Settings(
            epochs, shape, width, batch_size, learning_rate, beta, augment, seed, training_precision
        )
        if parts := sorted(options.keys() & {"weights", "biases", "strides"}):
            raise InputError(
                f"{parts[0]}: expected none, as training makes it, got one; give shape= for strides"
            )
        check_count("calibration", calibration, 0)
        check_progress(progress)
        place = check_device(device or "cpu")

        def built(net: VAEs) -> Any:
            return cls(*net.decoders(), shape.strides, seed=seed, beta=beta[1], **options)

        net = VAEs(shape, images.classes, width, seed).to(place)
        built(net)  # refuses wrong options before any work
        with shown(progress, "training ABS") as tick:
            about = train(net, images, settings, tick)
            model: Self = built(net).to(place)
            started = time.perf_counter()
            if calibration:
                chosen = rng.permutation(len(images), rng.derive(seed, "abs calibration"))[:calibration]
                if isinstance(tick, Lines):
                    tick.named(f"ABS, calibrated by {several(len(chosen), 'image')}", 1, 1)
                model.calibrate(images.take(chosen).to(place), images.y[chosen].to(place))
        about["measured"]["calibration_seconds"] = time.perf_counter() - started
        model.card = about
        return model

    @classmethod
    def from_official(cls, folder: str | os.PathLike[str], binary: bool = False, **options: Any) -> Self:
        """Return the model of the authors' ABS_0.net to ABS_9.net; options are those of the class."""
        options = {"binary": binary, "factors": OFFICIAL_FACTORS, **options}
        model = cls(*read_official(folder), DecoderShape().strides, **options)
        model.card = {"source": "the authors' published state dicts"}
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, prior latents, options, factors and card as one safetensors file."""
        config = dataclasses.asdict(self.options) | {"strides": list(self.shape.strides)}
        about = {**card("abs", config, weights=data_hash(*self.weights, *self.biases)), **self.card}
        write_abs(path, (self.decoders, self.prior, self.factors, self.options, about))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        held, prior, factors, options, about = read_abs(path)
        model = cls(
            held.weights, held.biases, held.shape.strides, factors=factors, prior_samples=held.classes,
            **dataclasses.asdict(options),
        )  # fmt: skip
        model.prior, model.card = prior, about
        return model

    def _search(self, options: InferenceOptions | None = None) -> LatentSearch:
        return LatentSearch(self.decoders, self.prior, options or self.options, self.factors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Half the bits are too few for weights and prior: model.to(torch.bfloat16) means bf16 arithmetic in
        # the descent.
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype not in (torch.bfloat16, torch.float16):
                return moved
            self.options = self.options.changed(precision="bf16")
            return tensor.to(moved.device)

        super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return self
