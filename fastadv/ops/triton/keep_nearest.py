"""keep_nearest_ on a GPU: the kernels of distance and keep_best_ (see ops/keep_nearest.py)."""

from math import inf

from torch import Tensor

from fastadv.ops.distance import fake
from fastadv.ops.keep_nearest import by_candidate, nearest
from fastadv.ops.triton import distance, keep_best


def launch(
    best_x: Tensor, best_rank: Tensor, best_success: Tensor, length: Tensor, x: Tensor, points: Tensor,
    success: Tensor, order: float,
) -> None:  # fmt: skip
    flat, center = by_candidate(x, points)
    away, inside = fake(flat)
    distance.launch(away, inside, flat, center, order, -inf, inf)
    length.copy_(away.view(length.shape))
    keep_best.launch(best_x, best_rank, best_success, *nearest(points, length, success))
