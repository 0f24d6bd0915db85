"""K class-conditional decoders as stacked weights: latents to images, all classes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.errors import InputError

# BatchNorm's guard against a vanishing variance, torch's default
NORM_FLOOR = 1e-5
# its parts, as `fold_batch_norm` takes them
NORM = ("weight", "bias", "running_mean", "running_var")
# side of the blocks of pixels that an image is decoded in
BLOCK = 4


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


def fold_batch_norm(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """A transposed convolution [K, cin, cout, k, k] with bias [K, cout] that includes the BatchNorm [K, cout] after it."""
    factor = scale / (variance + NORM_FLOOR).sqrt()
    return weight * factor[:, None, :, None, None], (bias - mean) * factor + shift


def decode(latents: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Images [B, K, C, H, W] in (0, 1) of latents [B, K, L]: one grouped transposed convolution a layer, a group a class."""
    count, classes, size = latents.shape
    out = latents.reshape(count, classes * size, 1, 1)
    for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True)):
        out = F.conv_transpose2d(out, weight.flatten(0, 1), bias.flatten(), stride=stride, groups=classes)
        out = F.elu(out) if layer < len(weights) - 1 else torch.sigmoid(out)
    return out.reshape(count, classes, out.shape[1] // classes, *out.shape[2:])


def decode_each(latents: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int], chunk: int = 100) -> Tensor:
    """Images [K, S, C, H, W] of shared latents [S, L] under every class, for many latents: a class at a time, in layouts that are fast."""
    images = []
    for k in range(len(weights[0])):
        own = [(weight[k], bias[k], stride) for weight, bias, stride in zip(weights, biases, strides, strict=True)]
        images.append(torch.cat([_decode_one(part, own) for part in torch.split(latents, chunk)]))
    return torch.stack(images)


def _decode_one(latents: Tensor, layers: list[tuple[Tensor, Tensor, int]]) -> Tensor:
    out = latents[:, :, None, None]
    for weight, bias, stride in layers[:-1]:
        out = F.elu(F.conv_transpose2d(out, weight, bias, stride=stride).contiguous(memory_format=torch.channels_last))
    weight, bias, stride = layers[-1]
    out = _by_blocks(out, weight, bias) if stride == 1 else F.conv_transpose2d(out, weight, bias, stride=stride)
    return torch.sigmoid(out).contiguous()


def _by_blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of stride 1 to the few channels of an image, as a convolution to its blocks of 4x4 pixels, which fill vectors."""
    taken, channels, kernel, _ = weight.shape
    wide = weight.new_zeros(channels, BLOCK, BLOCK, taken, kernel + BLOCK - 1, kernel + BLOCK - 1)
    for row in range(BLOCK):
        for column in range(BLOCK):
            wide[:, row, column, :, row : row + kernel, column : column + kernel] = weight.flip(2, 3).transpose(0, 1)
    size = x.shape[2] + kernel - 1
    after = BLOCK * -(-size // BLOCK) - x.shape[2]
    x = F.pad(x, (kernel - 1, after, kernel - 1, after)).contiguous(memory_format=torch.channels_last)
    blocks = F.conv2d(x, wide.flatten(0, 2), bias.repeat_interleave(BLOCK * BLOCK), stride=BLOCK)
    return F.pixel_shuffle(blocks, BLOCK)[..., :size, :size]


def shape_of(weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]) -> DecoderShape:
    """The shape of decoders with weights [K, cin, cout, k, k] and biases [K, cout] a layer; InputError where they make none."""
    if not len(weights) == len(biases) == len(strides) >= 1:
        raise InputError(f"decoder: expected as many weights, biases and strides, got {len(weights)}, {len(biases)} and {len(strides)}")
    for weight, bias in zip(weights, biases, strict=True):
        if weight.ndim != 5 or weight.shape[3] != weight.shape[4] or bias.shape != (weight.shape[0], weight.shape[2]):
            raise InputError(f"decoder: expected weights [K, cin, cout, k, k], biases [K, cout], got {tuple(weight.shape)}, {tuple(bias.shape)}")
        if not bool(weight.isfinite().all() and bias.isfinite().all()):
            raise InputError("decoder: expected finite weights, got NaN or infinite ones; train again or read an undamaged file")
    channels = (*(w.shape[1] for w in weights), weights[-1].shape[2])
    if any(weights[i].shape[2] != weights[i + 1].shape[1] for i in range(len(weights) - 1)) or len({len(w) for w in weights}) > 1:
        raise InputError(f"decoder: expected each layer to take what the one before gives, got shapes {[tuple(w.shape) for w in weights]}")
    if len(weights[0]) < 2:
        raise InputError("decoder: expected two classes or more, got one")
    return DecoderShape(channels, tuple(w.shape[3] for w in weights), tuple(strides))
