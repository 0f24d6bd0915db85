"""Augmentations whose randomness is keyed by (seed, id): the same for any batch, order, device or worker.

An augmentation is a function (x [B, C, H, W] in [0, 1], *, ids [B], seed) -> images of the same shape. Its
seed differs from epoch to epoch. One that also takes `epoch`, from 1, has one seed for the whole run.
functools.partial binds options: partial(cutout, size=8).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastadv import rng
from fastadv._checks import check_count, check_number
from fastadv.errors import InputError

Augment = Callable[..., Tensor]


def crop(x: Tensor, *, ids: Tensor, seed: int, padding: int | None = None) -> Tensor:
    """Take a random window, as large as the image, of the image in a black border of `padding` pixels.

    padding: an eighth of the height by default, 4 pixels of 32.
    """
    bordered, margin = border(x, padding)
    return windows(bordered, torch.arange(len(x), device=x.device), margin, ids=ids, seed=seed)


def border(x: Tensor, padding: int | None = None) -> tuple[Tensor, int]:
    """Put images in a black border. Returns them and its width."""
    margin = max(1, _height(x) // 8) if padding is None else check_count("padding", padding, 1)
    return pad(x, (margin,) * 4), margin


def windows(bordered: Tensor, positions: Tensor, margin: int, *, ids: Tensor, seed: int) -> Tensor:
    """Crop the images at `positions` of those that `border` has made, by one gather."""
    height, width = (side - 2 * margin for side in bordered.shape[2:])
    device = bordered.device
    top, left = _below(2 * margin + 1, rng.bits(2, seed, ids.to(device))).unbind(1)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = left[:, None] + torch.arange(width, device=device)
    sample = positions.to(device)[:, None, None, None]
    channel = torch.arange(bordered.shape[1], device=device)[:, None, None]
    return bordered[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def flip(x: Tensor, *, ids: Tensor, seed: int) -> Tensor:
    """Mirror half of the images, left to right."""
    return _mirrored(x, _coin(x, ids, seed))


def alternating_flip(x: Tensor, *, ids: Tensor, seed: int, epoch: int) -> Tensor:
    """Mirror half of the images in the first epoch, the other half in the next, and so on by turns.

    In any two epochs in a row a network sees both sides of every image.

    Source: Jordan 2024 (arXiv 2404.00498), alternating flip.
    """
    return _mirrored(x, _coin(x, ids, seed) ^ (check_count("epoch", epoch, 0) % 2 == 0))


def cutout(
    x: Tensor, *, ids: Tensor, seed: int, size: int | None = None, fill: float | Sequence[float] = 0.0
) -> Tensor:
    """Paint over a square of `size` x `size` pixels, its center anywhere: part of it may lie outside.

    size: half of the height by default, 16 pixels of 32.
    fill: a value in [0, 1], or one for each channel; the paper's is the mean color of the data.

    Source: DeVries and Taylor 2017 (arXiv 1708.04552).
    """
    height, width = _height(x), x.shape[3]
    side = max(1, height // 2) if size is None else check_count("size", size, 1)
    values = [check_number("fill", one, 0, 1) for one in (fill if isinstance(fill, Sequence) else [fill])]
    if len(values) not in (1, x.shape[1]):
        raise InputError(f"fill: expected one value or {x.shape[1]}, one for each channel, got {len(values)}")
    if not x.is_floating_point():
        raise InputError(f"cutout: expected images of floating point, got {x.dtype}; divide them by 255")
    words = rng.bits(2, seed, ids.to(x.device))
    first, left = (_below(n, words[:, k, None]) - side // 2 for k, n in enumerate((height, width)))
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    within = ((rows >= first) & (rows < first + side))[:, :, None]
    within = within & ((columns >= left) & (columns < left + side))[:, None, :]
    color = values[0] if len(values) == 1 else x.new_tensor(values)[:, None, None]
    return torch.where(within[:, None], color, x)


AUGMENTS: dict[str, tuple[Augment, ...]] = {
    "crop": (crop,),
    "flip": (flip,),
    "alternating_flip": (alternating_flip,),
    "cutout": (cutout,),
    "shift": (crop,),  # what digits need, which must not be mirrored
    "crop_flip": (crop, flip),
}


@dataclass(frozen=True)
class Augmentation:
    """Augmentations one after another, each with seeds of its own; `seed` is that of the run."""

    parts: tuple[Augment, ...]

    def __call__(self, x: Tensor, *, ids: Tensor, seed: int, epoch: int, first: int = 0) -> Tensor:
        for place, part in enumerate(self.parts[first:], first):
            x = part(x, ids=ids, **self.key(place, seed, epoch))
        return x

    def key(self, place: int, seed: int, epoch: int) -> dict[str, int]:
        """Return the seed that a part gets in an epoch, and the epoch if it takes it."""
        if _takes_epoch(self.parts[place]):
            return {"seed": rng.derive(seed, "augment run", place), "epoch": epoch}
        return {"seed": rng.derive(seed, "augment", epoch, place)}

    @property
    def draws(self) -> bool:
        """Whether a part is a function of the user, which may draw from torch."""
        built_in = [one for parts in AUGMENTS.values() for one in parts]
        return any(all(_bare(part)[0] is not one for one in built_in) for part in self.parts)

    def stored(self, x: Tensor) -> tuple[Tensor, int] | None:
        """Put a whole set in its border if the first part is `crop`. Returns it and the border's width."""
        function, options = _bare(self.parts[0])
        return border(x, **options) if function is crop else None


def make_augment(augment: str | Augment | Sequence[str | Augment] | None) -> Augmentation | None:
    """Return the augmentation that a name, a function, or several of them stand for."""
    if augment is None:
        return None
    given = [augment] if isinstance(augment, str) or not isinstance(augment, Sequence) else augment
    parts: list[Augment] = []
    for each in given:
        if isinstance(each, str) and each in AUGMENTS:
            parts.extend(AUGMENTS[each])
        elif callable(each):
            parts.append(each)
        else:
            raise InputError(
                f"augment: expected one of {', '.join(AUGMENTS)}, a function, several of them, or None, "
                f"got {each!r}"
            )
    if not parts:
        raise InputError("augment: expected at least one augmentation, got an empty list; pass None")
    return Augmentation(tuple(parts))


def _height(x: Tensor) -> int:
    if x.ndim != 4:
        raise InputError(
            f"augment: expected images [B, C, H, W], got shape {tuple(x.shape)}; pass augment=None"
        )
    return x.shape[2]


def _below(n: int, words: Tensor) -> Tensor:
    """Turn 32 random bits into an integer from 0 to n - 1, in integer arithmetic: equal on every device."""
    return (words * n) >> 32


def _coin(x: Tensor, ids: Tensor, seed: int) -> Tensor:
    return rng.bits(1, seed, ids.to(x.device))[:, 0] >= 1 << 31


def _mirrored(x: Tensor, chosen: Tensor) -> Tensor:
    _height(x)
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def _bare(part: Augment) -> tuple[Augment, dict[str, Any]]:
    """Return a function and the options bound to it."""
    if isinstance(part, partial) and not part.args:
        return part.func, part.keywords
    return part, {}


def _takes_epoch(part: Augment) -> bool:
    try:
        return "epoch" in inspect.signature(part).parameters
    except (TypeError, ValueError):  # what is written in C may not tell
        return False
