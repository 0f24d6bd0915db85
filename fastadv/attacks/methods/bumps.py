"""The shapes that Square adds in L2 and L1: two bumps of opposite signs in a rectangle."""

from functools import cache

import torch
from torch import Tensor

# by the order of the norm: with which power a bump falls from its middle
FALLS = {2: 2, 1: 4}


@cache
def two_bumps(height: int, width: int, beside: bool, order: int = 2) -> tuple[float, ...]:
    """Return a rectangle of length 1, of two bumps of opposite signs: one above or beside the other."""
    if beside:
        whole = torch.tensor(two_bumps(width, height, False, order), device="cpu").view(width, height).T
        return tuple(whole.flatten().tolist())
    half = height // 2
    whole = torch.cat([_bump(half, width, order), -_bump(height - half, width, order)])
    return tuple((whole / whole.norm(order)).flatten().tolist())


def _bump(height: int, width: int, order: int) -> Tensor:
    """Return [height, width] of length 1, a sum of squares around the middle: of sides 1, 3, 5 ... and
    heights 1, 1/4, 1/9 ... (Andriushchenko et al. 2020, section 3.4), or 1, 1/16, 1/81 ... for L1 (Croce &
    Hein 2021, appendix).
    """
    bump = torch.zeros(height, width, device="cpu")
    top, left = height // 2, width // 2
    for n in range(max(height // 2, width // 2) + 1):
        rows = slice(max(top - n, 0), max(top + n + 1, 0))
        bump[rows, max(left - n, 0) : left + n + 1] += 1 / (n + 1) ** FALLS[order]
    return bump / bump.norm(order) if height else bump
