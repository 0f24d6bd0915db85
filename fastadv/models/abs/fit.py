"""Training of ABS: all classes at once, on class-balanced batches (Schott et al. 2018, appendix)."""

import dataclasses
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_flag, check_number, check_seed
from fastadv.card import card
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from fastadv.models.abs.decoder import DecoderShape, VAEs, losses
from fastadv.progress import Tick, tell

logger = logging.getLogger("fastadv")


@dataclass(frozen=True, eq=False)
class Images:
    """x [N, C, H, W], uint8 or float32 in [0, 1]; y int64 [N] on the CPU; what a card says of them."""

    x: Tensor
    y: Tensor
    classes: int
    description: Any

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Tensor:
        """Return the images at `index` as float32 in [0, 1]."""
        x = self.x[index.to(self.x.device)]
        return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def read_images(dataset: Any) -> Images:
    """Return the images of a set with tensors `x` and `y`, or of pairs (image, label), checked."""
    x, y = getattr(dataset, "x", None), getattr(dataset, "y", None)
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        try:
            pairs = [dataset[i] for i in range(len(dataset))]
            images = [torch.as_tensor(image, device=getattr(image, "device", "cpu")) for image, _ in pairs]
            x = torch.stack(images)
            y = torch.tensor([int(label) for _, label in pairs], device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                "dataset: expected tensors x and y, or pairs (image, label), of [C, H, W] of one shape, "
                f"got {dataset!r:.80} ({error}); use a fa.data.ImageSet"
            ) from error
    if len(x) == 0 or x.ndim != 4:
        raise InputError(
            f"dataset: expected images [N, C, H, W], at least one, got {len(x)} of {tuple(x.shape[1:])}"
        )
    if y.shape != (len(x),) or y.is_floating_point():
        raise InputError(
            f"dataset: expected integer labels, one for each of {len(x)} images, "
            f"got {y.dtype} {tuple(y.shape)}"
        )
    if x.dtype != torch.uint8:
        low, high = (float(value) for value in x.aminmax())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise InputError(f"dataset: expected pixels in [0, 1], got {low:.4g} to {high:.4g}; rescale them")
    y = y.to("cpu", torch.int64)
    classes = int(getattr(dataset, "num_classes", int(y.max()) + 1))
    if int(y.min()) < 0 or int(y.max()) >= classes or classes < 2:
        raise InputError(
            f"dataset: expected labels from 0 to K - 1 of K >= 2 classes, "
            f"got {int(y.min())} to {int(y.max())} for K = {classes}"
        )
    counts = y.bincount(minlength=classes)
    if not bool(counts.all()):
        empty = (counts == 0).nonzero().flatten().tolist()
        raise InputError(
            f"dataset: expected images of each class, got none of {empty}; add some or drop the class"
        )
    describe = getattr(dataset, "describe", None)
    known = describe() if callable(describe) else {"samples": len(y), "data_hash": data_hash(x, y)}
    return Images(x, y, classes, known)


# Schott et al. warp a tenth of the images by each of four means
SHARE = 0.3
ZOOM, SHEAR, SHIFT = 0.1, 0.1, 1 / 28


def warp(x: Tensor, ids: Tensor, seed: int) -> Tensor:
    """Return x [B, C, H, W], three in ten drawn by `ids` [B] and zoomed, sheared and shifted, over black."""
    drawn = rng.uniform(6, seed, ids).to(x.device)
    chosen = (drawn[:, 0] < SHARE).nonzero().squeeze(1)
    if not len(chosen):
        return x
    zoom, across, down, right, lower = (2 * drawn[chosen, 1:, None, None] - 1).unbind(1)
    zoom, across, down = 1 + ZOOM * zoom, SHEAR * across, SHEAR * down
    # The unit of grid_sample is half a side.
    right, lower = 2 * SHIFT * right, 2 * SHIFT * lower
    part = x[chosen]
    rows, columns = ((2 * torch.arange(n, device=x.device) + 1) / n - 1 for n in part.shape[2:])
    rows = rows[:, None]
    # affine_grid would take it from a product of matrices, whose last bits depend on the batch size
    grid = torch.stack([zoom * columns + across * rows + right, down * columns + zoom * rows + lower], -1)
    out = x.clone()
    out[chosen] = F.grid_sample(part, grid, align_corners=False).clamp(0, 1)
    return out


@dataclass(frozen=True)
class Settings:
    """All that determines the training, besides its images."""

    epochs: int
    shape: DecoderShape
    width: int
    batch_size: int
    learning_rate: float
    beta: tuple[float, float]
    augment: bool
    seed: int
    precision: str = "fp32"

    def __post_init__(self) -> None:
        check_choice("training_precision", self.precision, ("fp32", "bf16"))
        for name in ("epochs", "width", "batch_size"):
            check_count(name, getattr(self, name), 1)
        check_flag("augment", self.augment)
        check_seed(self.seed)
        if not check_number("learning_rate", self.learning_rate, 0) > 0:
            raise InputError("learning_rate: expected a positive number, got 0")
        if not isinstance(self.beta, tuple | list) or len(self.beta) != 2:
            raise InputError(f"beta: expected (first, last), two numbers >= 0, got {self.beta!r}")
        for value in self.beta:
            check_number("beta", value, 0)

    def weight(self, epoch: int) -> float:
        """Return beta of an epoch: it goes to its second value over half of the epochs, and stays there."""
        share = min(1.0, epoch / max(1.0, (self.epochs - 1) / 2))
        return self.beta[0] + (self.beta[1] - self.beta[0]) * share


def train(net: VAEs, images: Images, settings: Settings, tick: Tick | None) -> dict[str, Any]:
    """Train the autoencoders, which are left in eval mode, and return the card of their training."""
    if (one := tuple(images.x.shape[1:])) != settings.shape.image:
        raise InputError(
            f"dataset: expected images {settings.shape.image}, as the decoders give, got {one}; "
            "give their DecoderShape"
        )
    started = time.perf_counter()
    # BatchNorm needs two images of every class
    rows = max(2, settings.batch_size // images.classes)
    steps = math.ceil(len(images) / (rows * images.classes))
    device = net.image_bias.device
    optimizer = Adam(net.parameters(), lr=settings.learning_rate)
    total = steps * settings.epochs
    scheduler = LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * min(step / total, 1.0))) / 2)
    net.train()
    known = ""  # the loss of the epoch before
    with torch.inference_mode(False), torch.enable_grad():
        for epoch in range(settings.epochs):
            beta = settings.weight(epoch)
            summed = torch.zeros(images.classes, dtype=torch.float64, device=device)
            for step, ids in enumerate(balanced(images, rows, steps, settings.seed, epoch)):
                x, noise = batch(images, ids, step, epoch, settings, device)
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                    image, mean, log_variance = net(x, noise)
                loss = losses(x, image, mean, log_variance, beta).mean(0)
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
                summed += loss.detach()
                tell(
                    tick,
                    f"ABS, epoch {epoch + 1} of {settings.epochs}{known}",
                    epoch * steps + step + 1,
                    total,
                )
            class_losses = summed / steps
            if not bool(class_losses.isfinite().all()):
                bad = (~class_losses.isfinite()).nonzero().flatten().tolist()
                raise FloatingPointError(
                    f"ABS.fit: expected finite losses, got NaN or infinite ones for classes {bad} "
                    f"in epoch {epoch + 1}; lower the learning rate"
                )
            known = f", loss of epoch {epoch + 1} {class_losses.mean():.4g}"
            logger.info("ABS epoch %d: loss %.3f, beta %.2f", epoch + 1, class_losses.mean(), beta)
    config = dataclasses.asdict(settings) | {"classes": images.classes, "data": images.description}
    measured = {"loss": float(class_losses.mean()), "seconds": time.perf_counter() - started}
    net.eval()
    return card("abs", config, **measured)


def balanced(images: Images, rows: int, steps: int, seed: int, epoch: int) -> Tensor:
    """Sample numbers [steps, rows, K], column k of class k; small classes repeat, large ones are cut."""
    order = rng.permutation(len(images), rng.derive(seed, "abs order", epoch))
    of_class = images.y[order]
    count = torch.arange(steps * rows, device="cpu")
    pools = [order[of_class == k] for k in range(images.classes)]
    ids = torch.stack([pool[count % len(pool)] for pool in pools], dim=1)
    return ids.reshape(steps, rows, -1)


def batch(
    images: Images, ids: Tensor, step: int, epoch: int, settings: Settings, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return images [rows, K, C, H, W] of the samples `ids` [rows, K], warped, and their latent noise."""
    warps, noises = (rng.derive(settings.seed, purpose, epoch) for purpose in ("abs warp", "abs noise"))
    flat = ids.flatten()
    x = images.take(flat).to(device)
    # One number for each place in the epoch, so that an image that repeats is drawn for anew.
    places = torch.arange(len(flat), device="cpu") + step * len(flat)
    if settings.augment:
        x = warp(x, places, warps)
    noise = rng.normal(settings.shape.channels[0], noises, places).to(device)
    return x.view(*ids.shape, *x.shape[1:]), noise.view(*ids.shape, -1)
