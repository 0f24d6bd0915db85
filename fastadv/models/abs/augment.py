"""Small zooms, shears and shifts of training images, keyed by (seed, id)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv import rng

# Schott et al. warp a tenth of the images by each of four means
SHARE = 0.3
ZOOM, SHEAR, SHIFT = 0.1, 0.1, 1 / 28


def warp(x: Tensor, ids: Tensor, seed: int) -> Tensor:
    """x [B, C, H, W] with three in ten images warped, chosen and drawn by `ids` [B].

    These are zoomed by 0.9 to 1.1, sheared by up to 0.1 (6 degrees) and shifted by up to a 28th of the side,
    over black.
    """
    drawn = rng.uniform(6, seed, ids).to(x.device)
    chosen = (drawn[:, 0] < SHARE).nonzero().squeeze(1)
    if not len(chosen):
        return x
    zoom, across, down, right, lower = (2 * drawn[chosen, 1:] - 1).unbind(1)
    zoom, across, down = 1 + ZOOM * zoom, SHEAR * across, SHEAR * down
    # The unit of affine_grid is half a side.
    right, lower = 2 * SHIFT * right, 2 * SHIFT * lower
    matrix = torch.stack([torch.stack([zoom, across, right], 1), torch.stack([down, zoom, lower], 1)], 1)
    part = x[chosen]
    grid = F.affine_grid(matrix, list(part.shape), align_corners=False)
    out = x.clone()
    out[chosen] = F.grid_sample(part, grid, align_corners=False).clamp(0, 1)
    return out
