"""latent_decode: the images of latents under the decoder of each class."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops._decoders import check_decoders, forward, image_size, products
from fastadv.ops._samples import sample_decoders
from fastadv.ops.registration.library import OpCard, Sample, op, register


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
    OpCard(
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
)


def latent_decode(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Decode latents z [K, N, L], N for each class, into images [K, N, C, H, H] in (0, 1)."""
    if z.dim() != 3 or not z.is_floating_point():
        raise InputError(f"z: expected floating latents [K, N, L], got {z.dtype} of shape {tuple(z.shape)}")
    check_decoders(z, len(z), weights, biases, strides)
    return op("latent_decode")(z, list(weights), list(biases), list(strides))
