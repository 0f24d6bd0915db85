"""Augmentations whose random numbers depend on seed and sample: the same in any batch, order or process.

An augmentation is a function (x [B, C, H, W], *, ids [B], seed) -> images of the same shape. Its
seed differs from epoch to epoch. `functools.partial` binds options: `partial(cutout, size=8)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_number
from fastadv.errors import InputError

__all__ = ["crop", "cutout", "flip", "random_resized_crop"]


def crop(x: Tensor, *, ids: Tensor, seed: int, padding: int | None = None) -> Tensor:
    """Pad the image with 0, which is black in [0, 1], and cut out a random window of the original size.

    Args:
        x: [B, C, H, W].
        ids: int [B], sample numbers; random numbers depend on them.
        seed: of the random numbers, an integer >= 0.
        padding: width of the black border in pixels; None takes an eighth of the height, 4 of 32.

    Returns:
        Images like x.

    Example:
        >>> import torch
        >>> from fastadv.train.augment import crop
        >>> x, ids = torch.rand(3, 1, 8, 8), torch.tensor([7, 8, 9])
        >>> cropped = crop(x, ids=ids, seed=0)
        >>> torch.equal(cropped[1:], crop(x[1:], ids=ids[1:], seed=0))  # each sample for itself
        True
    """
    height, width = _size(x)
    margin = max(1, height // 8) if padding is None else check_count("padding", padding, 1)
    top, left = _below(2 * margin + 1, rng.bits(2, seed, ids.to(x.device))).unbind(1)
    windows = pad(x, (margin,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(x), device=x.device), :, top, left]


def flip(x: Tensor, *, ids: Tensor, seed: int) -> Tensor:
    """Mirror half of the images, left to right.

    Args:
        others: as in `crop`.

    Returns:
        Images like x.
    """
    _size(x)
    chosen = rng.bits(1, seed, ids.to(x.device))[:, 0] >= 1 << 31
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def cutout(
    x: Tensor, *, ids: Tensor, seed: int, size: int | None = None, fill: float | Sequence[float] = 0.0
) -> Tensor:
    """Paint over a square whose center lies anywhere in the image, so that part of it may lie outside.

    Args:
        x: floating [B, C, H, W].
        size: side of the square in pixels; None takes half of the height, 16 of 32.
        fill: a value in [0, 1], or one for each channel. The paper fills with the mean color of the data.
        others: as in `crop`.

    Returns:
        Images like x.

    Raises:
        InputError: the fill has another number of channels, or x is not floating.

    Example:
        >>> import torch
        >>> from fastadv.train.augment import cutout
        >>> x = torch.ones(100, 1, 8, 8)
        >>> cut = cutout(x, ids=torch.arange(100), seed=0, size=2)
        >>> int((cut == 0).sum((1, 2, 3)).max())  # pixels; fewer at an edge
        4

    Source:
        DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout" (arXiv
        1708.04552).
    """
    height, width = _size(x, floating=True)
    side = max(1, height // 2) if size is None else check_count("size", size, 1)
    values = [check_number("fill", one, 0, 1) for one in (fill if isinstance(fill, Sequence) else [fill])]
    if len(values) not in (1, x.shape[1]):
        raise InputError(f"fill: expected one value or {x.shape[1]}, one for each channel, got {len(values)}")
    words = rng.bits(2, seed, ids.to(x.device))
    first, left = (_below(n, words[:, k, None]) - side // 2 for k, n in enumerate((height, width)))
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    within = ((rows >= first) & (rows < first + side))[:, :, None]
    within = within & ((columns >= left) & (columns < left + side))[:, None, :]
    color = values[0] if len(values) == 1 else x.new_tensor(values)[:, None, None]
    return torch.where(within[:, None], color, x)


def random_resized_crop(
    x: Tensor, *, ids: Tensor, seed: int, least: float = 0.08, most: float = 1.0, ratio: float = 4 / 3
) -> Tensor:
    """Stretch a random window to the size of the image, bilinearly.

    Args:
        x: floating [B, C, H, W].
        least: the smallest share of the image's area that the window may have, in [0, most].
        most: the largest share, in (0, 1].
        ratio: the largest ratio of the window's width to its height, 1 or more; the smallest is 1 / ratio. A
            window that does not fit is cut to the image.
        others: as in `crop`.

    Returns:
        Images like x.

    Raises:
        InputError: x has another shape, or is not floating.

    Source:
        Szegedy et al. 2015, "Going Deeper with Convolutions" (arXiv 1409.4842), section 6.
    """
    rows, columns = _size(x, floating=True)
    check_number("least", least, 0, most)
    check_number("most", most, 1e-6, 1)
    check_number("ratio", ratio, 1)
    area, shape, top, left = rng.uniform(4, seed, ids.to(x.device)).double().unbind(1)
    area = least + (most - least) * area
    # a ratio and its inverse are as likely
    stretch = ratio ** (shape - 0.5)
    image = (columns / rows) ** 0.5
    width = ((area.sqrt() * stretch / image).clamp(max=1)).to(x.dtype)
    height = ((area.sqrt() / stretch * image).clamp(max=1)).to(x.dtype)
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2] = (1 - width) * (2 * left.to(x.dtype) - 1)
    theta[:, 1, 2] = (1 - height) * (2 * top.to(x.dtype) - 1)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    moved = grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # weights may add up to a hair more than 1; values may lie in another box than [0, 1]
    low, high = (end((1, 2, 3), keepdim=True) for end in (x.amin, x.amax))
    return moved.clamp(low.clamp(max=0), high.clamp(min=1))


Augment = Callable[..., Tensor]

AUGMENTS: dict[str, tuple[Augment, ...]] = {
    "crop": (crop,),
    "flip": (flip,),
    "cutout": (cutout,),
    "shift": (crop,),  # what digits need, which must not be mirrored
    "crop_flip": (crop, flip),
    "random_resized_crop": (random_resized_crop,),
}
"""The augmentations by the names that `augment` takes."""


@dataclass(frozen=True)
class Augmentation:
    """Augmentations one after another, each with its own seed, of images x [B, C, H, W]."""

    parts: tuple[Augment, ...]

    def __call__(self, x: Tensor, *, ids: Tensor, seed: int, epoch: int) -> Tensor:
        for place, part in enumerate(self.parts):
            x = part(x, ids=ids, seed=rng.derive(seed, "augment", epoch, place))
        return x


def make_augment(augment: str | Augment | Sequence[str | Augment] | None) -> Augmentation | None:
    """Combine augmentations: a name of `AUGMENTS`, a function, or several; InputError for unknown ones."""
    if augment is None:
        return None
    names = [augment] if isinstance(augment, str) or not isinstance(augment, Sequence) else augment
    parts: list[Augment] = []
    for part in names:
        if isinstance(part, str) and part in AUGMENTS:
            parts.extend(AUGMENTS[part])
        elif callable(part):
            parts.append(part)
        else:
            check_choice("augment", part, AUGMENTS, ", a function, several of them, or None")
    if not parts:
        raise InputError("augment: expected at least one augmentation, got an empty list; pass None")
    return Augmentation(tuple(parts))


def _size(x: Tensor, floating: bool = False) -> tuple[int, int]:
    if x.ndim != 4:
        raise InputError(f"augment: expected images [B, C, H, W], got {tuple(x.shape)}; pass augment=None")
    if floating and not x.is_floating_point():
        raise InputError(f"augment: expected images of floating point, got {x.dtype}; divide them by 255")
    return x.shape[2], x.shape[3]


def _below(n: int, words: Tensor) -> Tensor:
    """Turn 32 random bits into an integer from 0 to n - 1, in integer arithmetic: equal on every device."""
    return (words * n) >> 32
