"""Sizes of displacements and gradients, sample by sample."""

from math import inf

import torch
from torch import Tensor

from fastadv import ops


def norm(away: Tensor, order: float) -> Tensor:
    """Return [n], the norm of each row of away [n, ...].

    On a CPU torch's own norms of order 1 and infinity take 3 and 9 times as long.
    """
    rows = away.flatten(1)
    if order == 0:
        return (rows != 0).sum(1).to(away.dtype)
    if order == 1:
        return rows.abs().sum(1)
    if order == inf:
        return largest(rows).flatten()
    length: Tensor = torch.linalg.vector_norm(rows, order, dim=1)
    return length


def largest(gradient: Tensor) -> Tensor:
    """Return [n, 1, ...], the largest absolute element of each sample; NaN where one is."""
    return ops.largest(gradient).view(-1, *[1] * (gradient.ndim - 1))
