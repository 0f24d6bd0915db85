"""square_linf: best with one window at an end of the ball (Andriushchenko et al. 2020, algorithm 2)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.ops._rows import check_like
from fastadv.ops._samples import batch, within
from fastadv.ops._windows import Image, Window, check_windows, corners, inside
from fastadv.ops.registration.library import Sample, op, register

SPARE = 24  # bits of the last word that each choose for a channel
# images, windows
SAMPLES = (
    ((1, 28, 28), (5, 5)), ((3, 9, 7), (4, 7)), ((3, 9, 7), (9, 1)), ((1, 1, 13), (1, 3)),
    ((2, 5, 6), (5, 6)),
)  # fmt: skip


def reference(
    best: Tensor, lower: Tensor, upper: Tensor, words: Tensor, channels: int, height: int, width: int,
    tall: int, wide: int,
) -> Tensor:  # fmt: skip
    image, window = (channels, height, width), (tall, wide)
    whole, shape = best.shape, (len(best), *image)
    changed = inside(corners(words[:, :2], image, window), image, window)
    best, lower, upper = (channel.reshape(shape) for channel in (best, lower, upper))
    up, spare = (words[:, 2:-1] & 1).bool(), words[:, -1:] & 0xFFFFFFFF

    def placed(up: Tensor) -> Tensor:
        return torch.where(changed, torch.where(up[:, :, None, None], upper, lower), best)

    channel = torch.arange(channels, device=words.device)
    others = (channel < SPARE) & (spare >> 8 >> channel.clamp(max=SPARE) & 1).bool()
    same = (placed(up) == best).flatten(1).all(1)
    return placed(up ^ (same[:, None] & (others | (channel == spare % channels)))).reshape(whole)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (image, window) in enumerate(SAMPLES):
        draw = torch.Generator().manual_seed(seed)
        for count in (0, 1, 6):
            best, lower, upper = batch((count, *image), device, dtype, seed)
            lower = lower.nan_to_num(0.0)
            words = torch.randint(2**32, (count, 3 + image[0]), generator=draw).to(device)
            best = torch.where(torch.arange(count).view(-1, *[1] * 3).to(device) % 2 == 0, upper, best)
            yield best, lower, upper, words, *image, *window
            yield *(tensor.flatten(1) for tensor in (best, lower, upper)), words, *image, *window  # fmt: skip
            last = (t.contiguous(memory_format=torch.channels_last) for t in (best, lower, upper))
            yield *last, words, *image, *window


register(
    name="square_linf",
    schema="(Tensor best, Tensor lower, Tensor upper, Tensor words, int channels, int height, int width, "
    "int tall, int wide) -> Tensor",
    summary="a proposal of Square: one window of an image at an end of its ball",
    reference=reference,
    samples=samples,
    compare=within(0),
    no_gradient="proposals of a random search are taken from no graph",
    ordered=True,
    bytes_moved=lambda best, *rest: 2 * best.nbytes,
    flops=lambda best, *rest: 0,
)


def square_linf(
    best: Tensor, lower: Tensor, upper: Tensor, words: Tensor, image: Image, window: Window
) -> Tensor:
    """Return best [B, ...], images of shape `image` (C, H, W), with a window (height, width) of each changed.

    words int64 [B, 3 + C] place the window and choose for each channel whether its pixels come from `lower`
    or `upper`. Where all is there already, the last word chooses channels that take their other end: one,
    and each of the first 24 by chance.
    """
    check_like(best, lower=lower, upper=upper)
    check_windows(best, words, 3 + image[0], image, window)
    return op("square_linf")(best, lower, upper, words, *image, *window)
