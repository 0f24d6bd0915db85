"""thin_gradient: the gradient to the input of a convolution that reads few channels, as images have.

gradient_in[c, i, j] = sum over o, a, b of w[o, c, a, b] g[o, (i + p - a d) / s, (j + p - b d) / s], with
stride s, padding p and dilation d, where the positions are whole numbers inside g.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import fold

from fastadv.errors import InputError
from fastadv.ops._rows import check_tensor, wide
from fastadv.ops._samples import assert_sums
from fastadv.ops.registration.library import Sample, op, register

MOST_CHANNELS = 4

Pair = Sequence[int]


def _output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> list[int]:
    """Return the height and width of the convolution's result."""
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]


def reference(
    gradient: Tensor, weight: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair,
    channels_last: bool,
) -> Tensor:  # fmt: skip
    planes = gradient.movedim(3, 1) if channels_last else gradient
    real = wide(gradient.dtype)  # overlapping patches would be summed in the eight bits of bfloat16
    patches = weight.to(real).flatten(1).t() @ planes.to(real).flatten(2)
    size, kernel, dilation, padding, stride = map(tuple, (size, weight.shape[2:], dilation, padding, stride))
    return fold(patches, size, kernel, dilation, padding, stride).to(gradient.dtype)


def fake(gradient: Tensor, weight: Tensor, size: Pair, *rest: object) -> Tensor:
    return gradient.new_empty(gradient.shape[0], weight.shape[1], *size)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    shapes = (
        # B, C, O, kernel, size, stride, padding, dilation
        (5, 1, 20, (5, 5), (28, 28), (1, 1), (0, 0), (1, 1)),
        (3, 3, 19, (3, 3), (32, 32), (1, 1), (1, 1), (1, 1)),
        (2, 3, 64, (7, 7), (37, 41), (2, 2), (3, 3), (1, 1)),
        (2, 2, 13, (3, 5), (11, 13), (1, 3), (1, 3), (2, 1)),
        (2, 4, 24, (2, 3), (9, 70), (3, 2), (0, 2), (1, 2)),
        (1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
        (0, 1, 6, (3, 3), (8, 8), (1, 1), (0, 0), (1, 1)),
    )
    for seed, (count, channels, outputs, kernel, size, stride, padding, dilation) in enumerate(shapes):
        draw = torch.Generator().manual_seed(seed)
        out = _output_size(size, kernel, stride, padding, dilation)
        gradient = torch.randn(count, outputs, *out, generator=draw).to(device, dtype)
        weight = torch.randn(outputs, channels, *kernel, generator=draw).to(device, wide(dtype))
        for last in (False, True):
            in_layout = gradient.movedim(1, 3).contiguous() if last else gradient
            yield in_layout, weight, list(size), list(stride), list(padding), list(dilation), last


register(
    name="thin_gradient",
    schema="(Tensor gradient, Tensor weight, int[] size, int[] stride, int[] padding, int[] dilation, "
    "bool channels_last) -> Tensor",
    summary="the input gradient of a convolution that reads up to 4 channels",
    reference=reference,
    fake=fake,
    samples=samples,
    # sums of O h v terms in another order, then rounded
    compare=assert_sums,
    no_gradient="it is a gradient itself, and taken once",
    ordered=True,
    bytes_moved=lambda gradient, *rest: gradient.nbytes,
    flops=lambda gradient, weight, *rest: 2 * gradient.numel() * weight[0].numel(),
)


def thin_gradient(
    gradient: Tensor, weight: Tensor, size: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Tensor:  # fmt: skip
    """Return the gradient [B, C, *size] to x of conv2d(x, weight), given that to its result, [B, O, ., .]."""
    if weight.ndim != 4 or weight.shape[1] > MOST_CHANNELS:
        raise InputError(
            f"weight: expected [O, C, h, v] with C <= {MOST_CHANNELS} channels, got {tuple(weight.shape)}"
        )
    out = _output_size(size, weight.shape[2:], stride, padding, dilation)
    check_tensor("gradient", gradient, ("B", weight.shape[0], *out), None)
    last = gradient.is_contiguous(memory_format=torch.channels_last) and not gradient.is_contiguous()
    dense = gradient.movedim(1, 3) if last else gradient.contiguous()
    weights = weight.to(wide(gradient.dtype)).contiguous()
    return op("thin_gradient")(dense, weights, list(size), list(stride), list(padding), list(dilation), last)
