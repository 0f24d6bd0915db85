"""Rotations and shifts of an image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from fastadv._checks import check_number
from fastadv.errors import InputError
from fastadv.ops._rows import like
from fastadv.threat.base import check_box
from fastadv.threat.linf import Linf
from fastadv.threat.through import Through, straight


def Moved(pixels: float, degrees: float, *, box: tuple[float, float] = (0.0, 1.0)) -> Through:
    """Rotate an image about its center, and then shift it: bilinear, with zeros from outside.

    The parameters are t = (dx, dy, angle) [B, 3], each over its limit and so in [-1, 1]. A point of the image
    goes right by dx, down by dy, and about the center from right to down.

    Gradients alone overstate robustness here, since the loss has many maxima along the angle: of a robust net
    for MNIST, within 2 pixels and 15 degrees, 20 steps of `pgd` left 61% of images right, and a grid of 775
    points 14%. Use `fastadv.attacks.grid`, alone or after another attack.

    Args:
        pixels: the largest shift to each side, a number >= 0.
        degrees: the largest angle in both directions, a number >= 0.
        box: (lo, hi) of valid images, with 0 inside. The default is [0, 1].

    Returns:
        A `Through` of images [B, C, H, W].

    Raises:
        InputError: a number is negative, or 0 is not in the box.

    Example:
        >>> import torch, fastadv as fa
        >>> x = torch.tensor([[[[0.0, 1.0, 0.0]]]])
        >>> fa.Moved(1, 15).image(torch.tensor([[1.0, 0.0, 0.0]]), x).round()
        tensor([[[[0., 0., 1.]]]])

    Source:
        Engstrom et al. 2019, "Exploring the Landscape of Spatial Robustness" (arXiv 1712.02779).
    """
    move = _Move(check_number("pixels", pixels, 0), check_number("degrees", degrees, 0), check_box(box))
    if not move.box[0] <= 0 <= move.box[1]:
        raise InputError(f"box: expected one with 0, which comes from outside the image, got {box}")
    name = f"Moved {pixels:g} px, {degrees:g}°"
    return Through(move, Linf(1.0, (-1.0, 1.0)), _still, box=box, name=name)


@dataclass(frozen=True)
class _Move:
    pixels: float
    degrees: float
    box: tuple[float, float]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        shift, angle = t[:, :2] * self.pixels, t[:, 2] * math.radians(self.degrees)
        cos, sin = like(angle.cos(), x[:, 0]), like(angle.sin(), x[:, 0])
        columns, rows = pixels_of(x)
        across, below = (x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2
        # the origin of a pixel: back by the shift, and then by the angle
        right, down = columns - across - like(shift[:, 0], x[:, 0]), rows - below - like(shift[:, 1], x[:, 0])
        columns, rows = cos * right + sin * down + across, cos * down - sin * right + below
        return _sampled(x, t, columns, rows, self.box)


def _still(x: Tensor) -> Tensor:
    pixels_of(x)
    return x.new_zeros(len(x), 3)


def pixels_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns [1, 1, W] and rows [1, H, 1] of images [B, C, H, W]; InputError for others."""
    if x.ndim != 4:
        raise InputError(f"x: expected images [B, C, H, W] for this threat, got {tuple(x.shape)}")
    columns, rows = (torch.arange(x.shape[axis], dtype=x.dtype, device=x.device) for axis in (3, 2))
    return columns.view(1, 1, -1), rows.view(1, -1, 1)


def _sampled(x: Tensor, t: Tensor, columns: Tensor, rows: Tensor, box: tuple[float, float]) -> Tensor:
    """Return x [B, C, H, W] between its pixels, at columns and rows [B, H, W], bilinear; x where t is 0."""
    # pixels are areas, in which a side of one pixel has a place, too
    places = [(2 * place + 1) / size - 1 for place, size in ((columns, x.shape[3]), (rows, x.shape[2]))]
    grid = torch.stack([place.expand(len(x), *x.shape[2:]) for place in places], -1)
    image = grid_sample(x, grid, align_corners=False)
    # coordinates are rounded: only so x is itself to the bit
    still = like((t == 0).flatten(1).all(1), x)
    return straight(torch.where(still, x, image.clamp(*box)), image)
