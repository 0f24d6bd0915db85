"""Rectangles of pixels in images [C, H, W], placed by random words: for the proposals of Square."""

import math

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops._rows import check_tensor

Image = tuple[int, int, int]
Window = tuple[int, int]


def corners(words: Tensor, image: Image, window: Window) -> Tensor:
    """Place a window by the low 32 bits of words [B, 2]; returns its upper left pixel, int64 [B, 2]."""
    free = words.new_tensor([image[1] - window[0] + 1, image[2] - window[1] + 1])
    return (words & 0xFFFFFFFF) * free >> 32


def middle_corners(words: Tensor, image: Image, window: Window) -> Tensor:
    """Place a window as `corners`, but half as often at each edge of the image: objects are in the middle."""
    last = words.new_tensor([image[1] - window[0], image[2] - window[1]])
    return ((words & 0xFFFFFFFF) * last + 2**31) >> 32  # a uniform number in [0, last], rounded


def inside(corner: Tensor, image: Image, window: Window) -> Tensor:
    """Return the mask of the window's pixels, bool [B, 1, H, W]."""
    rows, columns = (torch.arange(count, device=corner.device) for count in image[1:])
    down, right = rows - corner[:, :1], columns - corner[:, 1:]
    high, wide = (down >= 0) & (down < window[0]), (right >= 0) & (right < window[1])
    return (high[:, :, None] & wide[:, None, :]).unsqueeze(1)


def signs(words: Tensor) -> Tensor:
    """Turn each word into a float64 sign, 1 or -1."""
    return 1.0 - 2.0 * (words & 1).double()


def check_windows(batch: Tensor, words: Tensor, count: int, image: Image, window: Window) -> None:
    """Raise InputError unless batch [B, ...] holds such images, words are [B, count], and the window fits."""
    pixels = image[0] * image[1] * image[2]
    values = math.prod(batch.shape[1:])
    if min(image) < 1 or (len(batch) and values != pixels):
        raise InputError(f"image: expected (C, H, W) of {values} values, as the batch has, got {image}")
    check_tensor("words", words, (len(batch), count), torch.int64)
    if not (1 <= window[0] <= image[1] and 1 <= window[1] <= image[2]):
        raise InputError(f"window: expected one inside {image[1:]}, got {window}")
