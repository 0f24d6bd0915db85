"""Points that look the same to a model that sets pixels to 0 or 1, as near to the clean ones as can be."""

from functools import cache

import torch
from torch import Tensor


def snap(x: Tensor, x_adv: Tensor, threshold: float, *dtypes: torch.dtype) -> Tensor:
    """Return the points nearest to x whose coordinates lie on the sides of the threshold where x_adv's do."""
    # above is what a model in any of the `dtypes` finds at the threshold or above it (Schott et al. 2018)
    dtypes = dtypes or (x.dtype,)
    at, below = _sides(threshold, x.dtype, dtypes)
    compared = _coarsest(*dtypes)
    above = x_adv.to(compared) >= threshold
    nearest = torch.where(above, x.new_full((), at), x.new_full((), below))
    return torch.where((x.to(compared) >= threshold) == above, x, nearest)


@cache
def _sides(threshold: float, dtype: torch.dtype, dtypes: tuple[torch.dtype, ...]) -> tuple[float, float]:
    """Return the least number that all dtypes find at the threshold or above, and the largest none does."""
    coarse = _coarsest(dtype, *dtypes)
    edges = [float(torch.tensor(threshold, dtype=dtype, device="cpu")) for dtype in dtypes]
    at, below = (torch.tensor(edge, dtype=coarse, device="cpu") for edge in (max(edges), min(edges)))
    if float(at) < max(edges):
        at = at.nextafter(torch.full_like(at, torch.inf))
    if float(below) >= min(edges):
        below = below.nextafter(torch.full_like(below, -torch.inf))
    return float(at), float(below)


def _coarsest(*dtypes: torch.dtype) -> torch.dtype:
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
