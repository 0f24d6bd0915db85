"""Noise: Gaussian, shot, impulse and speckle."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from fastadv.data.corruption.card import Draws, corruption


@corruption((0.04, 0.06, 0.08, 0.09, 0.10), (0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38))
def gaussian_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    return x + scale * draws.normal(*x.shape[1:])


@lru_cache(maxsize=32)
def photons(scale: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return alias tables [256, K] of Poisson numbers, for each level with the mean scale * level / 255.

    Each of K columns holds its own number with the probability `share`, and `other` else (Walker 1977).
    """
    mean = scale * torch.arange(256, dtype=torch.float64, device="cpu")[:, None] / 255
    k = torch.arange(int(scale + 10 * math.sqrt(scale) + 20), dtype=torch.float64, device="cpu")
    left = torch.exp(torch.xlogy(k, mean) - mean - torch.lgamma(k + 1))
    left *= len(k) / left.sum(1, keepdim=True)
    left.mul_(2**24).round_().div_(2**24)  # so that ties, and columns, are those of any processor
    share, other = torch.ones_like(left), torch.zeros_like(left, dtype=torch.int64)
    full = torch.zeros_like(left, dtype=torch.bool)
    for _ in k:  # the least column takes from the largest what it lacks
        least = left.masked_fill(full, math.inf).argmin(1, keepdim=True)
        most = left.masked_fill(full, -math.inf).argmax(1, keepdim=True)
        size = left.gather(1, least)
        share.scatter_(1, least, size)
        other.scatter_(1, least, most)
        left.scatter_add_(1, most, size - 1)
        full.scatter_(1, least, True)
    return share.float().to(device), other.float().to(device)


@corruption((500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3))
def shot_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """Count photons: Poisson numbers, whose mean at white is `scale`."""
    share, other = photons(scale, x.device)
    column = draws.uniform(*x.shape[1:]).mul_(share.shape[1]).floor_()
    place = (x * 255).round_().mul_(share.shape[1]).add_(column).long()  # below 2^24, exact in float32
    own = draws.uniform(*x.shape[1:], draw=1) < share.take(place)
    return torch.where(own, column, other.take(place)).div_(scale)


@corruption((0.01, 0.02, 0.03, 0.05, 0.07), (0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Set a share of the elements to 0 or 1, at even odds."""
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < share, (u < share / 2).float(), x)


@corruption(
    (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.25, 0.3, 0.35), (0.15, 0.2, 0.35, 0.45, 0.6), extra=True
)
def speckle_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    return x + x * (scale * draws.normal(*x.shape[1:]))
