"""Noise: Gaussian, shot, impulse and speckle."""

import torch
from torch import Tensor

from fastadv.data.corruption.card import Draws, corruption


@corruption(
    cifar=(0.04, 0.06, 0.08, 0.09, 0.10),
    tiny=(0.04, 0.08, 0.12, 0.15, 0.18),
    imagenet=(0.08, 0.12, 0.18, 0.26, 0.38),
)
def gaussian_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    return x + scale * draws.normal(*x.shape[1:])


@corruption(
    cifar=(0.01, 0.02, 0.03, 0.05, 0.07),
    tiny=(0.01, 0.02, 0.05, 0.08, 0.14),
    imagenet=(0.03, 0.06, 0.09, 0.17, 0.27),
)
def impulse_noise(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Set a share of the elements to 0 or 1, at even odds."""
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < share, (u < share / 2).float(), x)


@corruption(
    cifar=(0.06, 0.1, 0.12, 0.16, 0.2),
    tiny=(0.15, 0.2, 0.25, 0.3, 0.35),
    imagenet=(0.15, 0.2, 0.35, 0.45, 0.6),
    extra=True,
)
def speckle_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    return x + x * (scale * draws.normal(*x.shape[1:]))
