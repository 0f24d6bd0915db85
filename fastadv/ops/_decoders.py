"""The decoders of Analysis by Synthesis as its ops take them: K chains of transposed convolutions, held as stacked weights.

A chain has no padding, ELU between its layers and a sigmoid at the end; batch normalisation is folded into the weights by the caller.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.errors import InputError


def forward(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
) -> list[Tensor]:
    """Each layer's output [B, K * cout, h, h] for latents [B, K, L]: one group a class. The first is z, the last are the images."""
    outputs = [z.reshape(len(z), -1, 1, 1)]
    for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True), start=1):
        out = F.conv_transpose2d(
            outputs[-1], weight.flatten(0, 1), bias.flatten(), stride=stride, groups=len(weight)
        )
        outputs.append(F.elu(out) if layer < len(weights) else out.sigmoid())
    return outputs


def products(weights: Sequence[Tensor], strides: Sequence[int]) -> int:
    """Multiplications of one decoder's forward pass."""
    size, total = 1, 0
    for weight, stride in zip(weights, strides, strict=True):
        total += size * size * weight[0].numel()
        size = chain_size((weight.shape[3],), (stride,), size)
    return total


def chain_size(kernels: Sequence[int], strides: Sequence[int], size: int = 1) -> int:
    """Side of what layers of these kernels and strides make of a square of side `size`."""
    for kernel, stride in zip(kernels, strides, strict=True):
        size = (size - 1) * stride + kernel
    return size


def image_size(weights: Sequence[Tensor], strides: Sequence[int]) -> int:
    """Side of the image that the layers make of one latent pixel."""
    return chain_size([weight.shape[3] for weight in weights], strides)


def arrays(parts: Sequence[Tensor]) -> list[Any]:
    """NumPy views for the kernels."""
    return [part.detach().contiguous().numpy() for part in parts]


def check_decoders(
    z: Tensor,
    classes: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    strides: Sequence[int],
    **others: Tensor,
) -> None:
    """Raise InputError unless the layers fit `classes` classes and latents z [..., L], one another, and z's dtype and device, like all `others`."""
    if not len(weights) == len(biases) == len(strides) >= 1:
        raise InputError(
            f"expected a weight, a bias and a stride a layer, got {len(weights)}, {len(biases)} and {len(strides)}"
        )
    channels = z.shape[2]
    for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True)):
        if (
            weight.dim() != 5
            or weight.shape[:2] != (classes, channels)
            or weight.shape[3] != weight.shape[4]
            or bias.shape != (classes, weight.shape[2])
            or stride < 1
        ):
            raise InputError(
                f"layer {layer}: expected weights [{classes}, {channels}, cout, k, k] with biases [{classes}, cout] and a stride >= 1, "
                f"got {tuple(weight.shape)}, {tuple(bias.shape)} and {stride}"
            )
        channels = weight.shape[2]
    layers = {f"layer {i}": part for parts in (weights, biases) for i, part in enumerate(parts)}
    for name, part in (others | layers).items():
        if part.dtype != z.dtype or part.device != z.device:
            raise InputError(
                f"{name}: expected {z.dtype} on {z.device} like z, got {part.dtype} on {part.device}; convert it first"
            )


def random_decoder(
    draw: torch.Generator,
    classes: int,
    layers: Sequence[tuple[int, int, int, int]],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor]]:
    """Random weights of (cin, cout, kernel, stride) layers, scaled so that activations neither vanish nor saturate."""
    weights, biases = [], []
    for cin, cout, kernel, stride in layers:
        scale = 1.5 * stride / (cin * kernel * kernel) ** 0.5
        weights.append(
            (scale * torch.randn(classes, cin, cout, kernel, kernel, generator=draw, dtype=torch.float64)).to(
                device, dtype
            )
        )
        biases.append(
            (0.3 * torch.randn(classes, cout, generator=draw, dtype=torch.float64)).to(device, dtype)
        )
    return weights, biases


MNIST = ((8, 32, 4, 1), (32, 16, 5, 2), (16, 16, 5, 2), (16, 1, 4, 1))
DECODERS = (
    (
        2,
        ((3, 5, 2, 2), (5, 21, 3, 3), (21, 33, 6, 2), (33, 3, 7, 1)),
    ),  # stride 3, more taps than a block, two planes and a rest, colour
    (3, ((5, 12, 3, 1), (12, 7, 2, 1), (7, 1, 5, 1))),  # 8x8 from odd rows
    (1, ((8, 20, 4, 1), (20, 16, 1, 1), (16, 2, 2, 2))),  # kernel 1, the last layer strided
    (2, ((4, 18, 3, 1), (18, 16, 1, 2), (16, 3, 1, 2))),  # strides beyond the kernel: pixels nothing reaches
    (2, ((6, 2, 4, 1),)),  # one layer
    (2, MNIST),
)


def sample_decoders(
    device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[torch.Generator, list[Tensor], list[Tensor], list[int]]]:
    """(generator, weights, biases, strides) of each of DECODERS, for op samples."""
    for seed, (classes, layers) in enumerate(DECODERS):
        draw = torch.Generator().manual_seed(seed)
        weights, biases = random_decoder(draw, classes, layers, device, dtype)
        yield draw, weights, biases, [layer[3] for layer in layers]
