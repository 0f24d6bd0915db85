"""K class-conditional decoders as stacked weights: latents to images, all classes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.errors import InputError


@dataclass(frozen=True)
class DecoderShape:
    """A chain of unpadded transposed convolutions, ELU between them and a sigmoid at the end.

    channels  latent size, then the channels after each layer; the last are the image's
    kernels, strides  of each layer; from 1x1, a layer takes size n to (n - 1) * stride + kernel
    """

    channels: tuple[int, ...] = (8, 32, 16, 16, 1)
    kernels: tuple[int, ...] = (4, 5, 5, 4)
    strides: tuple[int, ...] = (1, 2, 2, 1)

    def __post_init__(self) -> None:
        layers = len(self.kernels)
        if not layers == len(self.strides) == len(self.channels) - 1 >= 1 or min(*self.channels, *self.kernels, *self.strides) < 1:
            raise InputError(f"decoder: expected n + 1 channels for n kernels and n strides, all positive, got {self}")

    @property
    def size(self) -> int:
        """Height and width of the image."""
        size = 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            size = (size - 1) * stride + kernel
        return size

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, H, W) of the image."""
        return self.channels[-1], self.size, self.size

    @classmethod
    def for_images(cls, shape: tuple[int, int, int], latents: int = 8, width: int = 16) -> "DecoderShape":
        """The paper's shape for 28x28, and for other square sizes from 8 on the like: two doublings, first and last kernels that fit.

        InputError for images that are not square or smaller than 8x8.
        """
        channels, rows, columns = shape
        if rows != columns or rows < 8:
            raise InputError(f"images: expected square ones of 8x8 or more, got {tuple(shape)}; give a DecoderShape of your own")
        wide = (latents, 2 * width, width, width, channels)
        for last in (4, 3, 5, 2, 1):
            # first -> 2 first + 3 -> 2 (2 first + 3) + 3 -> + last - 1
            first, rest = divmod(rows - last + 1 - 9, 4)
            if first >= 1 and rest == 0:
                return cls(wide, (first, 5, 5, last), (1, 2, 2, 1))
        return cls((latents, 2 * width, width, channels), (3, 3, rows - 4), (1, 1, 1))


def fold_batch_norm(
    weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """A transposed convolution [K, cin, cout, k, k] with bias [K, cout] that includes the BatchNorm [K, cout] after it."""
    factor = scale / (variance + eps).sqrt()
    return weight * factor[:, None, :, None, None], (bias - mean) * factor + shift


def decode(latents: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Images [B, K, C, H, W] in (0, 1) of latents [B, K, L]: one grouped transposed convolution a layer, a group a class."""
    count, classes, _ = latents.shape
    out = latents.reshape(count, -1, 1, 1)
    for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True)):
        out = F.conv_transpose2d(out, weight.flatten(0, 1), bias.flatten(), stride=stride, groups=classes)
        out = F.elu(out) if layer < len(weights) - 1 else torch.sigmoid(out)
    return out.unflatten(1, (classes, -1))


def decode_each(latents: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int], chunk: int = 1000) -> Tensor:
    """Images [K, S, C, H, W] of shared latents [S, L] under every class; a class at a time, whose dense convolution is the faster one."""
    images = []
    for k in range(len(weights[0])):
        own = [w[k : k + 1] for w in weights], [b[k : k + 1] for b in biases]
        images.append(torch.cat([decode(part[:, None], *own, strides)[:, 0] for part in latents.split(chunk)]))
    return torch.stack(images)
