"""square_bumps: best with two bumps in one window, which take the length of the perturbation in another too.

A proposal of the Square Attack under L2 (Andriushchenko et al. 2020, algorithm 3) or L1 (Croce & Hein 2021).
In each channel, with old the perturbation in the window and b the bumps with a random sign, of length 1, the
window becomes b + old / |old|, brought to a new length, and the other window is emptied. In L2 |new|^2 is
|perturbation in both|^2 + unspent, and the whole gets the length of the radius; in L1 |new| is channels *
(|perturbation in both| + unspent), and windows lie half as often at each edge. `unspent` is what the
perturbation lacks of the (squared) radius, over the channels. What comes out is projected.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv._checks import check_choice
from fastadv.errors import InputError
from fastadv.ops import _projection
from fastadv.ops._rows import Box, PerRow, check_like, check_tensor, column, limits, per_row
from fastadv.ops._samples import batch, per_sample, within
from fastadv.ops._windows import Image, check_windows, corners, inside, middle_corners, signs
from fastadv.ops.registration.library import Sample, op, register
from fastadv.ops.square_linf import SAMPLES

NORMS = ("l2", "l1")
TINY = 1e-12


def reference(
    best: Tensor, x: Tensor, words: Tensor, bumps: Tensor, channels: int, height: int, width: int,
    norm: str, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None,
) -> Tensor:  # fmt: skip
    power, place = (2, corners) if norm == "l2" else (1, middle_corners)
    count, image, window = len(x), (channels, height, width), (bumps.shape[1], bumps.shape[2])
    center = x.double().reshape(count, *image)
    delta = best.double().reshape(count, *image) - center
    length = column(radius, radius_rows, delta)
    energy = delta.abs() ** power
    corner, other = place(words[:, :2], image, window), place(words[:, 2:4], image, window)
    down, right = (corner[:, axis, None] + torch.arange(window[axis], device=x.device) for axis in range(2))
    index = (down[:, :, None] * width + right[:, None, :]).flatten(1)[:, None].expand(-1, channels, -1)
    old, elsewhere = delta.flatten(2).gather(2, index), inside(other, image, window)
    both = (energy * (inside(corner, image, window) | elsewhere)).sum((2, 3))  # [n, C]
    unspent = (length.flatten() ** power - energy.sum((1, 2, 3))).clamp_min(0) / channels
    new = bumps.double().flatten(1)[words[:, 4] & 1][:, None] * signs(words[:, 5:])[..., None]
    new = new + old / _length(old, power)
    taken = (unspent[:, None] + both)[..., None]
    new = new / _length(new, power) * (taken.sqrt() if norm == "l2" else channels * taken)
    delta = delta.masked_fill(elsewhere, 0).flatten(2).scatter(2, index, new).flatten(1)
    if norm == "l1":
        moved = (center.flatten(1) + delta).to(x.dtype).double()
        return _projection.on_l1(moved.reshape(x.shape), x, radius, lo, hi, radius_rows)
    moved = center.flatten(1) + delta * (length.view(-1, 1) / _length(delta, power, 1))
    moved = moved.clamp(lo, hi).to(x.dtype).double().reshape(x.shape)
    return _projection.on_l2(moved, x, radius, lo, hi, radius_rows)


def _length(values: Tensor, power: int, axis: int = 2) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, power, dim=axis, keepdim=True)
    return length.clamp_min(TINY)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (image, window) in enumerate(SAMPLES):
        draw = torch.Generator().manual_seed(seed)
        for count in (0, 1, 6):
            x_adv, _, x = batch((count, *image), device, dtype, seed)
            words = torch.randint(2**32, (count, 5 + image[0]), generator=draw).to(device)
            bumps = torch.randn(2, *window, generator=draw).to(device, dtype)
            rest = (words, bumps / bumps.flatten(1).norm(dim=1)[:, None, None], *image)
            rows = per_sample((count,), device, seed).nan_to_num(posinf=2.0)
            last = [t.contiguous(memory_format=torch.channels_last) for t in (x_adv, x)]
            for norm in NORMS:
                for radius in (0.0, 0.5, 3.0):
                    yield x_adv, x, *rest, norm, radius, 0.0, 1.0
                yield x_adv.flatten(1), x.flatten(1), *rest, norm, 1.0, -1.0, 2.0
                yield x, x, *rest, norm, 1.0, 0.0, 1.0  # nothing to take
                yield *last, *rest, norm, 0.0, -math.inf, math.inf, rows


register(
    name="square_bumps",
    schema="(Tensor best, Tensor x, Tensor words, Tensor bumps, int channels, int height, int width, "
    "str norm, float radius, float lo, float hi, Tensor? radius_rows=None) -> Tensor",
    summary="a proposal of Square in L2 or L1: two bumps that take another window's length, projected",
    reference=reference,
    samples=samples,
    compare=within(4, 3e-7),
    no_gradient="proposals of a random search are taken from no graph",
    ordered=True,
    bytes_moved=lambda best, *rest: 3 * best.nbytes,
    flops=lambda best, *rest: 20 * best.numel(),
)


def square_bumps(
    best: Tensor, x: Tensor, words: Tensor, bumps: Tensor, image: Image, norm: str, radius: PerRow,
    box: Box = (0.0, 1.0),
) -> Tensor:  # fmt: skip
    """Return best [B, ...], images of shape `image` (C, H, W), with two bumps in a window of each.

    bumps [2, height, width] are of length 1 in `norm`, one above or beside the other. words int64 [B, 5 + C]
    place the window and the one that is emptied, choose the bumps, and a sign for each channel.
    """
    check_like(best, x=x)
    check_choice("norm", norm, NORMS)
    check_tensor("bumps", bumps, (2, "height", "width"), x.dtype)
    check_windows(best, words, 5 + image[0], image, (bumps.shape[1], bumps.shape[2]))
    radius, radius_rows = per_row("radius", radius, x)
    if radius == math.inf:
        raise InputError("radius: expected a finite one, whose length the proposal has, got inf")
    return op("square_bumps")(best, x, words, bumps, *image, norm, radius, *limits(box), radius_rows)
