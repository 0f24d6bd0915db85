"""Augmentations whose randomness is keyed by (seed, id): a resumed run sees the same images.

An augmentation is a function (x [B, C, H, W], *, ids [B], seed) -> images of the same shape.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastadv import rng
from fastadv.errors import InputError

Augment = Callable[..., Tensor]


def _window(x: Tensor, ids: Tensor, seed: int, *, flip: bool) -> Tensor:
    """Each image shifted by up to an eighth of its side (4 pixels of 32) over a black border.

    flip: half of the images are also mirrored.
    """
    if x.ndim != 4:
        raise InputError(
            f"augment: expected images [B, C, H, W], got shape {tuple(x.shape)}; pass augment=None"
        )
    height, width = x.shape[2:]
    margin = max(1, height // 8)
    draws = rng.uniform(3, seed, ids).to(x.device)
    top, left = (draws[:, :2] * (2 * margin + 1)).long().unbind(1)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(len(x), -1)
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    columns = left[:, None] + columns
    sample = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[:, None, None]
    return pad(x, (margin,) * 4)[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def shift(x: Tensor, *, ids: Tensor, seed: int) -> Tensor:
    """A random shift of up to an eighth of the side: digits, which must not be mirrored."""
    return _window(x, ids, seed, flip=False)


def crop_flip(x: Tensor, *, ids: Tensor, seed: int) -> Tensor:
    """The usual augmentation of CIFAR-10: a random crop of the padded image, mirrored half of the time.

    The image is padded by an eighth of its side: 4 pixels of 32.
    """
    return _window(x, ids, seed, flip=True)


AUGMENTS: dict[str, Augment] = {"crop_flip": crop_flip, "shift": shift}


def make_augment(augment: str | Augment | None) -> Augment | None:
    """The augmentation of that name; a function and None pass through."""
    if augment is None or callable(augment):
        return augment
    if augment not in AUGMENTS:
        raise InputError(f"augment: expected one of {sorted(AUGMENTS)}, a function or None, got {augment!r}")
    return AUGMENTS[augment]
