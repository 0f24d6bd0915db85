"""One change of colors for all pixels of an image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.ops._rows import PerRow
from fastadv.threat.base import check_box
from fastadv.threat.linf import Linf
from fastadv.threat.through import Through, straight


def Recolored(radius: PerRow, grid: int = 8, *, box: tuple[float, float] = (0.0, 1.0)) -> Through:
    """Shift each color to another, the same for all pixels of it: trilinear between the points of a grid.

    The parameters t [B, 3, grid, grid, grid] are the shifts of red, green and blue at the points of a grid
    over the box, whose axes are blue, green and red; of gray images, t is [B, 1, 1, 1, grid]. The paper takes
    grids of other sizes in CIELUV, and adds a penalty for shifts that differ between neighbors.

    Args:
        radius: the largest shift of a channel, in input units; a number or [B]. It has no default.
        grid: points along each axis, an integer >= 2.
        box: (lo, hi) of valid images, both finite. The default is [0, 1].

    Returns:
        A `Through` of images [B, C, H, W] of at most three channels.

    Raises:
        InputError: the radius is negative or NaN, the grid too small, or the box not finite.

    Source:
        Laidlaw and Feizi 2019, "Functional Adversarial Attacks" (arXiv 1906.00001), section 4.
    """
    low, high = check_box(box)
    if not high - low < float("inf"):
        raise InputError(f"box: expected a finite one, over which the grid lies, got {box}")
    colors = _Colors(check_count("grid", grid, 2), (low, high))
    ball = Linf(radius, (low - high, high - low))
    return Through(colors, ball, colors.still, box=box, name="Recolored")


@dataclass(frozen=True)
class _Colors:
    grid: int
    box: tuple[float, float]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        low, high = self.box
        places = (2 * (x - low) / (high - low) - 1).movedim(1, -1).unsqueeze(1)
        missing = places.new_zeros(*places.shape[:-1], 3 - x.shape[1])
        # points of the grid lie on the ends of the box
        shift = grid_sample(t, torch.cat([places, missing], -1), padding_mode="border", align_corners=True)
        moved = x + shift.squeeze(2)
        return straight(moved.clamp(low, high), moved)

    def still(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] > 3:
            raise InputError(f"x: expected images [B, C, H, W] with C <= 3, got {tuple(x.shape)}")
        channels = x.shape[1]
        return x.new_zeros(len(x), channels, *[1] * (3 - channels), *[self.grid] * channels)
