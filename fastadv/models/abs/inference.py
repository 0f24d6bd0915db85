"""From images to class losses: the search among the prior samples, then the latent descent."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv._waiting import waits
from fastadv.errors import InputError
from fastadv.models._common import check_batch
from fastadv.models.abs.decoder import Decoders
from fastadv.models.abs.options import InferenceOptions, graded
from fastadv.models.abs.prior import PriorBank
from fastadv.models.wrappers import THRESHOLD, binarize
from fastadv.ops.latent_fit import latent_fit


def squared_misfit(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return ||G_k(z) - x||^2, [B, K], of reconstructions [B, K, ...]."""
    return (reconstruction - x[:, None]).flatten(2).square().sum(2)


def class_losses(x: Tensor, reconstruction: Tensor, latents: Tensor, beta: float) -> Tensor:
    """Return (||G_k(z) - x||^2 + beta/2 ||z||^2) / D, [B, K], of latents [B, K, L] and their images."""
    return (squared_misfit(x, reconstruction) + beta / 2 * latents.square().sum(2)) / x.shape[1:].numel()


def adam_step(
    latents: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int, step_size: float,
    max_norm: float,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
    """Return (latents, moments) after Adam's step number `step`, from 1, and the clipping of norms."""
    mean, square = 0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient.square()
    # The derivative of the root at zero is infinite; a tiny floor keeps it finite without changing a step.
    root = (square / (1 - 0.999**step) + 1e-24).sqrt()
    latents = latents - step_size * (mean / (1 - 0.9**step)) / (root + 1e-8)
    shrunk = latents * (max_norm / latents.norm(dim=2, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    return shrunk, (mean, square)


def unrolled(
    x: Tensor, start: Tensor, decoders: Decoders, options: InferenceOptions
) -> tuple[Tensor, Tensor]:
    """Return (losses [B, K], latents [B, K, L]) of the Adam descent from `start`, with its graph kept."""
    latents = start.detach().requires_grad_()
    moments = torch.zeros_like(latents), torch.zeros_like(latents)
    for step in range(1, options.steps):
        losses = class_losses(x, decoders(latents), latents, options.beta)
        (gradient,) = torch.autograd.grad(losses.sum(), latents, create_graph=True)
        latents, moments = adam_step(latents, gradient, moments, step, options.step_size, options.max_norm)
    return class_losses(x, decoders(latents), latents, options.beta), latents


# Images worked on at once; it bounds the memory of the decoders' activations, about 1 MB an image of MNIST.
CHUNK = 250
# Pixels may lie so far outside [0, 1]: by rounding, and finite differences.
SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class Inference:
    """What ABS infers from a batch.

    Attributes:
        loss: [B, K], the class losses; for Binary ABS multiplied by the class factors.
        latents: [B, K, L], the latents that the losses belong to.
        reconstruction: [B, K, C, H, W], the images of these latents.
        scale: alpha of the confidence.
        floor: eta of the confidence.
    """

    loss: Tensor
    latents: Tensor
    reconstruction: Tensor
    scale: float = 1.0
    floor: float = 0.0

    @property
    def confidence(self) -> Tensor:
        """The graded softmax (exp(-scale loss_k) + floor) / sum over classes, [B, K]."""
        return graded(-self.loss, self.scale, self.floor)


@dataclass(frozen=True, eq=False)
class LatentSearch:
    """The search for the latents that explain images best, and all it needs; factors are [K], one a class."""

    decoders: Decoders
    prior: PriorBank
    options: InferenceOptions
    factors: Tensor

    def observed(self, x: Tensor) -> Tensor:
        """Return the image as the model sees it, in its precision; InputError for other shapes and pixels."""
        x = check_batch(x, self.decoders.shape.image)
        if x.numel() and not (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            _check_pixels(x.detach())
        if self.options.binary:  # before the cast, which can round a pixel across the threshold
            x = binarize(x, THRESHOLD)
        return x.to(self.decoders.dtype)

    def weighed(self, loss: Tensor) -> Tensor:
        """Class losses [B, K] as decisions compare them: Binary ABS multiplies them by the class factors."""
        return loss * self.factors if self.options.binary else loss

    def infer(self, x: Tensor) -> Inference:
        with torch.no_grad():
            parts = []
            for seen in torch.split(self.observed(x), CHUNK):
                loss, latents = self.best(seen)
                parts.append((self.weighed(loss), latents, self.decoders(latents)))
            loss, latents, image = (torch.cat(part) for part in zip(*parts, strict=True))
            return Inference(loss, latents, image, self.options.scale, self.options.floor)

    def losses(self, x: Tensor) -> Tensor:
        """Return the losses [B, K] of `infer`, bit for bit, with the gradient that `input_grad` names."""
        seen = self.observed(x)
        wanted = seen.requires_grad and torch.is_grad_enabled()
        find = self._differentiable if wanted else lambda part: self.best(part)[0]
        return self.weighed(torch.cat([find(part) for part in torch.split(seen, CHUNK)]))

    def best(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss [B, K], latents [B, K, L]), pruned where the options say so; without class factors."""
        # a GPU descends for all classes at once in less time
        pruned = self.options.prune and not waits(seen.device)
        with torch.no_grad():
            return (self.pruned if pruned else self.every_class)(seen.detach())

    def descend(
        self, seen: Tensor, start: Tensor, *, beta: float | None = None, only: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Return (loss [B, k], latents [B, k, L]) of Adam's descent from `start`, for the classes `only`."""
        weights, biases = (
            [part[only] for part in parts] for parts in (self.decoders.weights, self.decoders.biases)
        )
        options = self.options
        loss, latents = latent_fit(
            seen,
            start,
            weights,
            biases,
            list(self.decoders.shape.strides),
            beta=options.beta if beta is None else beta,
            steps=options.steps,
            step_size=options.step_size,
            max_norm=options.max_norm,
            bf16=options.precision == "bf16",
        )
        return loss, latents

    def start(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss [B, K], latents [B, K, L]) of each class's best prior sample."""
        return self.prior.nearest(seen, self.decoders, self.options.beta)

    def every_class(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self.descend(seen, self.start(seen)[1])

    def pruned(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss [B, K], latents [B, K, L]); classes that cannot win keep their best prior sample."""
        loss, latents = self.start(seen)
        factors = self.factors if self.options.binary else torch.ones_like(self.factors)
        order = (loss * factors).argsort(dim=1)
        hoped = loss * factors * self.options.prune_gain
        best = torch.full_like(loss[:, 0], torch.inf)
        for rank in order.unbind(1):
            # written so that NaN counts as alive, and ends as it does without pruning
            alive = ~(hoped.gather(1, rank[:, None]).squeeze(1) >= best)
            if not bool(alive.any()):
                break
            for k in range(self.decoders.classes):
                rows = ((rank == k) & alive).nonzero().squeeze(1)
                if len(rows):
                    fitted = self.descend(seen[rows], latents[rows, k : k + 1], only=slice(k, k + 1))
                    loss[rows, k], latents[rows, k] = (part.squeeze(1) for part in fitted)
                    best[rows] = torch.minimum(best[rows], loss[rows, k] * factors[k])
        return loss, latents

    def _differentiable(self, seen: Tensor) -> Tensor:
        """Return the losses of `best` with the gradient that `input_grad` names."""
        loss, latents = self.best(seen)
        with torch.no_grad():
            image = self.decoders(latents)
        # The envelope theorem: the optimum's own movement does not count, d loss / dx = 2 (x - G(z*)) / D.
        function = class_losses(seen, image, latents, self.options.beta)
        if self.options.input_grad == "unrolled":
            with torch.no_grad():
                _, start = self.start(seen.detach())
            descended, _ = unrolled(seen, start, self.decoders, self.options)
            # A class that pruning skipped stays at its start, where both gradients are the same.
            function = torch.where((latents == start).all(2), function, descended)
        return loss + (function - function.detach())  # bit for bit: a finite number minus itself is zero


def _check_pixels(x: Tensor) -> None:
    low, high = (float(value) for value in x.aminmax())
    if low != low:  # torch's minimum of anything with NaN
        finite = ~x.flatten(1).isnan().any(1)
        if not bool(finite.any()):
            raise InputError("x: expected pixels in [0, 1], got NaN in every sample; see where x comes from")
        low, high = (float(value) for value in x[finite].aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise InputError(f"x: expected pixels in [0, 1], got {low:.4g} to {high:.4g}; rescale them")


def check_labels(y: Tensor, x: Tensor, classes: int) -> None:
    """Raise InputError unless y holds an int64 class for each sample of x, on its device."""
    if y.shape != (len(x),) or y.dtype != torch.int64 or y.device != x.device:
        raise InputError(
            f"y: expected int64 classes [{len(x)}] on {x.device}, one for each image, "
            f"got {y.dtype} {tuple(y.shape)} on {y.device}"
        )
    if len(y) and not (int(y.min()) >= 0 and int(y.max()) < classes):
        raise InputError(f"y: expected classes 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")
