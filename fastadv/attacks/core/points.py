"""Points of samples: one of each [n, ...], or C candidates of each [n, C, ...]."""

from typing import TypeVar

import torch
from torch import Tensor

from fastadv import ops
from fastadv.ops._rows import like as like

V = TypeVar("V", Tensor, Tensor | None)


def taken(values: V, index: Tensor) -> V:
    """Return values[index], index int64 [m] or bool [n], in the layout of values [n, ...]; None of None."""
    if values is None:
        return None
    if index.dtype == torch.bool or not values.is_contiguous():
        return values[index]
    return values.index_select(0, index)  # a fifth of the time of values[index] on a CPU


def distance(points: Tensor, x: Tensor, order: float) -> Tensor:
    """Return [n] or [n, C], the distance of points to x [n, ...]."""
    if points.ndim == x.ndim:
        return ops.distance(points, x, order)[0].to(points.dtype)
    center = x.unsqueeze(1).expand_as(points).flatten(0, 1)
    distances, _ = ops.distance(points.flatten(0, 1), center, order)
    return distances.view(points.shape[:2]).to(points.dtype)
