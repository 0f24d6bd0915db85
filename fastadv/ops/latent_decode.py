"""latent_decode: the images of latents under the decoder of each class; and what decoders are.

Those of Analysis by Synthesis are K chains of transposed convolutions, stacked over the classes. Without
padding, ELU between the layers and a sigmoid at the end; BatchNorm is folded in by the caller.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.errors import InputError
from fastadv.ops._rows import check_kind, check_tensor
from fastadv.ops._samples import sample_decoders
from fastadv.ops.registration.library import Sample, op, register


def forward(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
) -> list[Tensor]:
    """Return what each layer gives, [B, K * cout, h, h]: first z [B, K, L] itself, last the images."""
    outputs = [z.reshape(len(z), -1, 1, 1)]
    for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True), start=1):
        out = F.conv_transpose2d(
            outputs[-1], weight.flatten(0, 1), bias.flatten(), stride=stride, groups=len(weight)
        )
        outputs.append(F.elu(out) if layer < len(weights) else out.sigmoid())
    return outputs


def products(weights: Sequence[Tensor], strides: Sequence[int]) -> int:
    """Count the multiplications of one decoder's forward pass."""
    size, total = 1, 0
    for weight, stride in zip(weights, strides, strict=True):
        total += size * size * weight[0].numel()
        size = chain_size((weight.shape[3],), (stride,), size)
    return total


def chain_size(kernels: Sequence[int], strides: Sequence[int], size: int = 1) -> int:
    """Return the side of the output of such layers for a square input of side `size`."""
    for kernel, stride in zip(kernels, strides, strict=True):
        size = (size - 1) * stride + kernel
    return size


def image_size(weights: Sequence[Tensor], strides: Sequence[int]) -> int:
    """Return the side of the decoded image: the layers begin with one pixel."""
    return chain_size([weight.shape[3] for weight in weights], strides)


def check_decoders(
    z: Tensor, classes: int, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int],
    **others: Tensor,
) -> None:  # fmt: skip
    """Raise InputError unless the layers fit `classes`, latents z [..., L], each other and `others`."""
    if not len(weights) == len(biases) == len(strides) >= 1:
        raise InputError(
            "expected a weight, a bias and a stride a layer, "
            f"got {len(weights)}, {len(biases)} and {len(strides)}"
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
                f"layer {layer}: expected weights [{classes}, {channels}, cout, k, k] "
                f"with biases [{classes}, cout] and a stride >= 1, "
                f"got {tuple(weight.shape)}, {tuple(bias.shape)} and {stride}"
            )
        channels = weight.shape[2]
    layers = {f"layer {i}": part for parts in (weights, biases) for i, part in enumerate(parts)}
    check_kind("z", z, **others | layers)


def reference(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    if not z.numel():
        return fake(z, weights, biases, strides)
    images = forward(z.transpose(0, 1), weights, biases, strides)[-1]
    return images.reshape(z.shape[1], len(z), -1, *images.shape[2:]).transpose(0, 1).contiguous()


def fake(z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    size = image_size(weights, strides)
    return z.new_empty((*z.shape[:2], weights[-1].shape[2], size, size))


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for draw, weights, biases, strides in sample_decoders(device, dtype):
        for count in (1, 5, 0):
            z = torch.randn(count, *weights[0].shape[:2], generator=draw, dtype=torch.float64).to(
                device, dtype
            )
            yield z.transpose(0, 1), weights, biases, strides


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    bound = 1e-12 if expected.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound)


register(
    name="latent_decode",
    schema="(Tensor z, Tensor[] weights, Tensor[] biases, int[] strides) -> Tensor",
    summary="G_k(z) for latents of each class",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=compare,
    dtypes=(torch.float32,),
    no_gradient="fastadv.models.abs.decoder.decode is the differentiable decoder",
    bytes_moved=lambda z, weights, biases, strides: (
        4 * (z.numel() + z[..., 0].numel() * weights[-1].shape[2] * image_size(weights, strides) ** 2)
    ),
    flops=lambda z, weights, biases, strides: 2 * products(weights, strides) * z[..., 0].numel(),
)


def latent_decode(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Decode latents z [K, N, L], N for each class, into images [K, N, C, H, H] in (0, 1)."""
    check_tensor("z", z, ("K", "N", "L"), None)
    check_decoders(z, len(z), weights, biases, strides)
    return op("latent_decode")(z, list(weights), list(biases), list(strides))
