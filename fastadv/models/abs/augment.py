"""Small zooms, shears and shifts of training images, keyed by (seed, id)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv import rng

# Schott et al. warp a tenth of the images by each of four means
SHARE = 0.3
ZOOM, SHEAR, SHIFT = 0.1, 0.1, 1 / 28


def warp(x: Tensor, ids: Tensor, seed: int) -> Tensor:
    """Return x [B, C, H, W] with three in ten images warped, chosen and drawn by `ids` [B].

    These are zoomed by 0.9 to 1.1, sheared by up to 0.1 (6 degrees) and shifted by up to a 28th of the side,
    over black.
    """
    drawn = rng.uniform(6, seed, ids).to(x.device)
    chosen = (drawn[:, 0] < SHARE).nonzero().squeeze(1)
    if not len(chosen):
        return x
    zoom, across, down, right, lower = (2 * drawn[chosen, 1:, None, None] - 1).unbind(1)
    zoom, across, down = 1 + ZOOM * zoom, SHEAR * across, SHEAR * down
    # The unit of grid_sample is half a side.
    right, lower = 2 * SHIFT * right, 2 * SHIFT * lower
    part = x[chosen]
    rows, columns = (_middles(side, x.device) for side in part.shape[2:])
    rows = rows[:, None]
    # affine_grid would take it from a product of matrices, whose last bits depend on the batch size
    grid = torch.stack([zoom * columns + across * rows + right, down * columns + zoom * rows + lower], -1)
    out = x.clone()
    out[chosen] = F.grid_sample(part, grid, align_corners=False).clamp(0, 1)
    return out


def _middles(side: int, device: torch.device) -> Tensor:
    """Return where the middles of `side` pixels lie, between -1 and 1."""
    return (2 * torch.arange(side, device=device) + 1) / side - 1
