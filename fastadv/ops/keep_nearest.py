"""keep_nearest_: keep the first nearest to x of a sample's best and its candidates that are successes."""

from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor

from fastadv.ops import keep_best
from fastadv.ops._rows import check_column, check_like
from fastadv.ops._samples import SHAPES, batch
from fastadv.ops.distance import reference as distances
from fastadv.ops.registration.library import Sample, op, register


def reference(
    best_x: Tensor, best_rank: Tensor, best_success: Tensor, length: Tensor, x: Tensor, points: Tensor,
    success: Tensor, order: float,
) -> None:  # fmt: skip
    flat, center = by_candidate(x, points)
    length.copy_(distances(flat, center, order, -inf, inf)[0].view(length.shape))
    keep_best.reference(best_x, best_rank, best_success, *nearest(points, length, success))


def by_candidate(x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return points [B, C, ...] as [B * C, ...], and the sample of each."""
    return points.flatten(0, 1), x.unsqueeze(1).expand_as(points).flatten(0, 1)


def nearest(points: Tensor, length: Tensor, success: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's nearest success, minus its distance (NaN without one), and whether it has one."""
    far, place = torch.where(success, length, inf).min(1)
    row = torch.arange(len(place), device=place.device)
    return points[row, place], torch.where(far < inf, -far, torch.nan), far < inf


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    draw = torch.Generator().manual_seed(9)
    for seed, (shape, order) in enumerate(zip((*SHAPES, (0, 5)), (0.0, 2.0, inf, 1.0) * 2, strict=True)):
        for count in (1, 3):
            best, _, x = batch(shape, device, dtype, seed)
            points = torch.stack([batch(shape, device, dtype, 50 + seed + i)[0] for i in range(count)], 1)
            # whole numbers, so that each order of summation finds the same distance
            best, x, points = ((4 * part).round() for part in (best, x, points))
            rank = -torch.rand(shape[0], generator=draw).to(device) * x[:1].numel()
            success = (torch.rand(shape[0], 1 + count, generator=draw) < 0.6).to(device)
            was, now, length = success[:, 0].contiguous(), success[:, 1:], torch.zeros(success[:, 1:].shape)
            yield best, torch.where(was, rank, -inf), was, length.to(device), x, points, now, order


register(
    name="keep_nearest_",
    schema="(Tensor(a!) best_x, Tensor(b!) best_rank, Tensor(c!) best_success, Tensor(d!) length, "
    "Tensor x, Tensor points, Tensor success, float order) -> ()",
    summary="per sample, the nearest to x of the best and of the candidates that are successes",
    reference=reference,
    samples=samples,
    bytes_moved=lambda best_x, *rest: best_x.nbytes + rest[4].nbytes,
    flops=lambda best_x, *rest: 3 * rest[4].numel(),
    **keep_best.WRITES,
)


def keep_nearest_(
    best: tuple[Tensor, Tensor, Tensor], x: Tensor, points: Tensor, success: Tensor, order: float
) -> Tensor:
    """Overwrite rows of `best`, points, minus their distances to x, and successes; return all distances.

    points [B, C, ...] are the candidates of each sample, `success` [B, C] tells which count.
    """
    best_x, best_rank, best_success = best
    check_like(best_x, x=x)
    check_like(x.unsqueeze(1).expand(-1, success.shape[-1], *x.shape[1:]), points=points)
    real = torch.float64 if best_x.dtype == torch.float64 else torch.float32
    check_column("best_rank", best_rank, best_x, real)
    check_column("best_success", best_success, best_x, torch.bool)
    check_column("success", success[:, 0], best_x, torch.bool)
    length = torch.empty(success.shape, dtype=real, device=points.device)
    op("keep_nearest_")(*best, length, x, points, success, order)
    return length
