"""Blur: Gaussian, defocus, glass, motion and zoom."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from fastadv.data.corruption.card import Draws, corruption, levels
from fastadv.ops.glass_shuffle import glass_shuffle
from fastadv.ops.stencil import stencil


def bell(last: int, sigma: float) -> Tensor:
    """Return the weights of a Gaussian at -last to last, float64 with the sum 1."""
    weights = torch.exp(-0.5 * (torch.arange(-last, last + 1, device="cpu").double() / sigma) ** 2)
    return weights / weights.sum()


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Blur images [B, C, H, W]; pixels at the edge are repeated, and the weights end at 4 sigma."""
    reach = int(4 * sigma + 0.5)
    weights = bell(reach, sigma).float().to(x.device)[None]
    along = torch.arange(-reach, reach + 1, dtype=torch.int32, device=x.device)
    none = torch.zeros_like(along)
    for offsets in (torch.stack([along, none], 1), torch.stack([none, along], 1)):
        x = stencil(x, offsets[None], weights)
    return x


@corruption(
    ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
def defocus_blur(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """Average over a disk, which is itself smoothed; images are mirrored at their outermost pixels."""
    radius, sigma = constants
    reach = 8 if radius <= 8 else int(radius)
    squares = torch.arange(-reach, reach + 1, device="cpu") ** 2
    disk = (squares[:, None] + squares <= radius**2).double()
    of_blur = bell(1 if radius <= 8 else 2, sigma)
    mirrored = pad((disk / disk.sum())[None, None], [len(of_blur) // 2] * 4, mode="reflect")
    weights = conv2d(mirrored, torch.outer(of_blur, of_blur)[None, None])[0, 0]
    places = (weights > 1e-12).nonzero()
    weights, offsets = weights[tuple(places.T)], (places - reach).int()
    far = int(offsets.abs().max())
    wide = stencil(
        pad(x, [far] * 4, mode="reflect"), offsets[None].to(x.device), weights[None].float().to(x.device)
    )
    return wide[..., far : far + x.shape[2], far : far + x.shape[3]]


@corruption(
    ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
def glass_blur(x: Tensor, constants: tuple[float, int, int], draws: Draws) -> Tensor:
    """Blur, replace each pixel by one nearby, in turn, and blur again."""
    # The paper's code means to swap the two pixels, but makes both the second one, as NumPy hands out views.
    sigma, distance, rounds = constants
    moved = glass_shuffle(levels(gaussian(x, sigma)), draws.ids, distance, rounds, draws.seed)
    return gaussian(moved.float().div_(255), sigma)


def streaks(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Blur each image [B, C, H, W] along its own direction, one way, as ImageMagick does: on 256 levels."""
    places = torch.arange(2 * radius + 1, device=x.device).double()
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    angle = torch.deg2rad(degrees.double())
    along = torch.stack([angle.sin(), angle.cos()], 1)[:, None]
    offsets = (places[:, None] * along - 0.5).ceil().int()
    return stencil(x, offsets, (weights / weights.sum()).float()[None]).mul_(255).round_().div_(255)


@corruption(
    ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
def motion_blur(x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
    radius, sigma = constants
    return streaks(x, radius, sigma, 90 * draws.uniform() - 45)


def resampled(x: Tensor, down: Tensor, right: Tensor, *, centers: bool) -> Tensor:
    """Return images at places [B, H, W], or [1, H, W], mirrored at outermost centers of pixels or edges."""
    height, width = x.shape[2:]
    ends = [
        (2 * at / (side - 1) if centers else (2 * at + 1) / side) - 1
        for at, side in ((right, width), (down, height))
    ]
    grid = torch.stack(ends, 3).float().expand(len(x), -1, -1, -1)
    return grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=centers)


def zoomed(x: Tensor, factor: float) -> Tensor:
    """Return the centers of images [B, C, H, W], enlarged bilinearly, their outermost pixels in place."""
    places = []
    for side in x.shape[2:]:
        crop = math.ceil(side / factor)
        large = round(crop * factor)
        at = torch.arange(side, device=x.device).double() + (large - side) // 2
        places.append((side - crop) // 2 + at * (crop - 1) / (large - 1))
    # not by `interpolate`, whose rounding depends on the number of threads
    down, right = torch.meshgrid(places, indexing="ij")
    return resampled(x, down[None], right[None], centers=True)


@corruption(
    ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)
def zoom_blur(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """Average the image with itself enlarged by 1, 1.01 ... as far as `np.arange(1, *constants)` goes."""
    factors: Sequence[float] = np.arange(1, *constants).tolist()
    total = x.clone()
    for factor in factors:
        total += zoomed(x, factor)
    return total.div_(len(factors) + 1)


@corruption((0.4, 0.6, 0.7, 0.8, 1), (0.5, 0.75, 1, 1.25, 1.5), (1, 2, 3, 4, 6), extra=True)
def gaussian_blur(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    return gaussian(x, sigma)
