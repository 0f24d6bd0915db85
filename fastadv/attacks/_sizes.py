"""Sizes of displacements and gradients, sample by sample."""

import torch
from torch import Tensor


def norm(away: Tensor, order: float) -> Tensor:
    """[n] the norm of each row of away [n, ...]."""
    if order == 0:
        return (away != 0).flatten(1).sum(1).to(away.dtype)
    length: Tensor = torch.linalg.vector_norm(away.flatten(1), order, dim=1)
    return length


def largest(gradient: Tensor) -> Tensor:
    """[n, 1, ...] the largest absolute element of each sample; NaN where one is.

    Two reductions are faster than one of the absolute values, which would first have to be stored.
    """
    dims = tuple(range(1, gradient.ndim))
    return torch.maximum(gradient.amax(dims, keepdim=True), -gradient.amin(dims, keepdim=True))
