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
def counts_below(scale: float, device: torch.device) -> Tensor:
    """Return [256, K]: level + P(at most k photons), whose mean is scale * level / 255."""
    most = int(scale + 10 * math.sqrt(scale) + 20)
    mean = scale * torch.arange(256, dtype=torch.float64, device="cpu")[:, None] / 255
    k = torch.arange(most, dtype=torch.float64, device="cpu")
    shares = torch.exp(torch.xlogy(k, mean) - mean - torch.lgamma(k + 1)).cumsum(1).clamp_max_(1)
    shares[:, -1] = 1
    return (shares + torch.arange(256, device="cpu")[:, None]).to(device)


@corruption((500, 250, 100, 75, 50), (250, 100, 50, 30, 15), (60, 25, 12, 5, 3))
def shot_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """Count photons: Poisson numbers of this mean at white, by their inverse distribution."""
    table = counts_below(scale, x.device)
    levels = (x * 255).round_().double()
    asked = (levels + draws.uniform(*x.shape[1:])).contiguous()
    place = torch.searchsorted(table.flatten(), asked, right=True)
    return (place - levels * table.shape[1]).float().div_(scale)


@corruption((0.01, 0.02, 0.03, 0.05, 0.07), (0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Set a share of the elements to 0 or 1, at even odds."""
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < share, (u < share / 2).float(), x)


@corruption(
    (0.06, 0.1, 0.12, 0.16, 0.2),
    (0.15, 0.2, 0.25, 0.3, 0.35),
    (0.15, 0.2, 0.35, 0.45, 0.6),
    extra=True,
)
def speckle_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    return x + x * (scale * draws.normal(*x.shape[1:]))
