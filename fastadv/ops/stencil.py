"""stencil: sums of shifted images, each tap with its weight; beyond the image its edges are repeated.

    out[b, c, i, j] = sum over t of weights[b, t] * x[b, c, clamp(i + down), clamp(j + right)]

with (down, right) = offsets[b, t]. Products and sums are rounded one by one, in the order of the taps.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops._rows import wide
from fastadv.ops._samples import within
from fastadv.ops.registration.library import Sample, op, register


def _places(shift: Tensor, size: int) -> Tensor:
    """Return the places [N, size] that a shift [N] reads along an axis."""
    return (torch.arange(size, device=shift.device) + shift[:, None]).clamp(0, size - 1)


def reference(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    real = x.to(wide(x.dtype))
    sample = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(x.shape[1], device=x.device).view(-1, 1, 1)
    out = torch.zeros_like(real)
    for t in range(offsets.shape[1]):
        down, right = (_places(offsets[:, t, axis], x.shape[2 + axis]) for axis in range(2))
        moved = real[sample, channel, down[:, None, :, None], right[:, None, None, :]]
        out = out + weights[:, t].to(real.dtype).view(-1, 1, 1, 1) * moved
    return out.to(x.dtype)


# B, C, H, W, taps, the largest offset, and whether each sample has taps of its own
SAMPLES = (
    (0, 3, 4, 4, 2, 1, True), (1, 1, 1, 1, 1, 2, False), (3, 2, 5, 7, 4, 3, True), (2, 3, 9, 70, 5, 6, False),
    (1, 1, 70, 1, 3, 2, True), (2, 1, 1, 33, 3, 2**31 - 1, True), (5, 3, 8, 16, 3, 1, False),
)  # fmt: skip


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (*shape, taps, far, each) in enumerate(SAMPLES):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=draw).to(device, dtype)
        if len(x) > 2:
            x[0, 0, 2, 3], x[0, 1, 0, 0] = torch.nan, torch.inf
        sets = shape[0] if each else 1
        offsets = torch.randint(-far, far + 1, (sets, taps, 2), generator=draw).to(device, torch.int32)
        weights = torch.randn(sets, taps, generator=draw).to(device)
        yield x, offsets, weights
        yield x.contiguous(memory_format=torch.channels_last), offsets, weights
        yield x.transpose(2, 3), offsets[..., :1].expand(-1, -1, 2), weights[:1].expand(sets, -1)


register(
    name="stencil",
    schema="(Tensor x, Tensor offsets, Tensor weights) -> Tensor",
    summary="sums of shifted images by weights, edges repeated; taps of the batch or of each sample",
    reference=reference,
    samples=samples,
    compare=within(0),
    ordered=True,
    no_gradient="a blurred image is where an evaluation begins",
    bytes_moved=lambda x, *rest: 2 * x.nbytes,
    flops=lambda x, offsets, weights: 2 * x.numel() * offsets.shape[1],
)


def stencil(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return images x [B, C, H, W], each pixel a sum of the pixels at `offsets` from it, by `weights`.

    offsets: int32 [B, T, 2], or [1, T, 2] for all samples, pixels down and right. weights: floating [B, T],
    or [1, T]. Pixels beyond the image are those at its edge.
    """
    if x.dim() != 4 or not x.is_floating_point() or 0 in x.shape[2:]:
        raise InputError(f"x: expected floating images [B, C, H, W], got {x.dtype} {tuple(x.shape)}")
    count, taps = len(x), offsets.shape[1] if offsets.dim() == 3 else 0
    fit = taps > 0 and offsets.shape in ((1, taps, 2), (count, taps, 2)) and offsets.device == x.device
    if not fit or offsets.dtype != torch.int32:
        raise InputError(
            f"offsets: expected int32 [{count}, T, 2] or [1, T, 2] on {x.device}, "
            f"got {offsets.dtype} {tuple(offsets.shape)} on {offsets.device}"
        )
    fit = weights.shape in ((1, taps), (count, taps)) and weights.device == x.device
    if not fit or not weights.is_floating_point():
        raise InputError(
            f"weights: expected floating [{count}, {taps}] or [1, {taps}] on {x.device}, as offsets, "
            f"got {weights.dtype} {tuple(weights.shape)} on {weights.device}"
        )
    return op("stencil")(x, offsets, weights.to(wide(x.dtype)))
