"""A patch on an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_count, check_seed
from fastadv.errors import InputError
from fastadv.threat.base import check_box
from fastadv.threat.linf import Linf
from fastadv.threat.moved import pixels_of
from fastadv.threat.through import Through

Place = tuple[int, int] | Literal["any"] | None


def Patch(
    size: tuple[int, int], place: Place = None, *, box: tuple[float, float] = (0.0, 1.0), seed: int = 0
) -> Through:
    """Replace a rectangle of an image by any pixels of the box.

    The parameters are its pixels t [B, C, h, w]. At "any" place, each sample has one that is drawn by (seed,
    id, draw), the last row and column included. An attack takes draw 0 for search and verdict: a success is
    one at that place, where x_adv has the patch, and says nothing of other places. `threat.image(t, x, ids,
    draw)` shows the patch at others.

    Args:
        size: (height, width) in pixels.
        place: (row, column) of its upper left pixel, "any", or None, the default, for the center.
        box: (lo, hi) of valid images, both finite. The default is [0, 1].
        seed: of places, an integer >= 0.

    Returns:
        A `Through` of images [B, C, H, W].

    Raises:
        InputError: size or place is no pair of such integers, or the box is not finite.

    Example:
        >>> import torch, fastadv as fa
        >>> fa.Patch((1, 2), place=(1, 0)).image(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 2, 3))
        tensor([[[[0., 0., 0.],
                  [1., 1., 0.]]]])

    Source:
        Brown et al. 2017, "Adversarial Patch" (arXiv 1712.09665); Karmon et al. 2018, "LaVAN" (arXiv
        1801.02608), for one place of each image.
    """
    height, width = _pair("size", size, 1)
    where = place if place is None or place == "any" else _pair("place", place, 0)
    low, high = check_box(box)
    if not high - low < float("inf"):
        raise InputError(f"box: expected a finite one, which a patch may fill, got {box}")
    paste = _Paste((height, width), where, check_seed(seed))
    ball = _Everything(high - low, (low, high))
    name = f"Patch {height}x{width}" + (f" at {place}" if place else "")
    return Through(paste, ball, paste.still, box=box, name=name)


class _Everything(Linf):
    """The whole box, on purpose: no flag says that the ball holds all of it."""

    def covers(self, x: Tensor) -> bool:
        return False


@dataclass(frozen=True)
class _Paste:
    size: tuple[int, int]
    place: Place
    seed: int

    def __call__(self, x: Tensor, t: Tensor, ids: Tensor | None = None, draw: int = 0) -> Tensor:
        return x.flatten(2).scatter(2, self._pixels(x, ids, draw), t.flatten(2)).view_as(x)

    def still(self, x: Tensor, ids: Tensor | None = None, draw: int = 0) -> Tensor:
        return x.flatten(2).gather(2, self._pixels(x, ids, draw)).view(*x.shape[:2], *self.size)

    def _pixels(self, x: Tensor, ids: Tensor | None, draw: int) -> Tensor:
        """Return int64 [B, C, h * w], the numbers of the pixels of the patch."""
        columns, rows = (line.long().flatten() for line in pixels_of(x))
        ids = torch.arange(len(x), device=x.device) if ids is None else ids
        top, left = (corner[:, None, None] for corner in self._corner(x, ids, draw))
        down, right = top + rows[: self.size[0], None], left + columns[: self.size[1]]
        return (down * x.shape[3] + right).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)

    def _corner(self, x: Tensor, ids: Tensor, draw: int) -> tuple[Tensor, Tensor]:
        """Return the row and the column, int64 [B], of the upper left pixel."""
        height, width = (side - length for side, length in zip(x.shape[2:], self.size, strict=True))
        if self.place == "any" and min(height, width) >= 0:
            row, column = (rng.derive(self.seed, f"patch {side}") for side in ("row", "column"))
            return rng.integers(height + 1, row, ids, draw), rng.integers(width + 1, column, ids, draw)
        top, left = self.place if isinstance(self.place, tuple) else (height // 2, width // 2)
        if not (0 <= top <= height and 0 <= left <= width):
            raise InputError(
                f"size: expected a patch inside images of {x.shape[2]} by {x.shape[3]} pixels, "
                f"got {self.size[0]} by {self.size[1]} at {self.place or 'the center'}"
            )
        return torch.full_like(ids, top), torch.full_like(ids, left)


def _pair(name: str, values: Sequence[int], least: int) -> tuple[int, int]:
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise InputError(f"{name}: expected a pair of integers, got {values!r}")
    first, second = (check_count(name, value, least) for value in values)
    return first, second
