"""How the points of a sample rank against each other, and how the best is kept."""

import math
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from fastadv import losses
from fastadv._waiting import waits
from fastadv.attacks.core.record import Record
from fastadv.engine.by_row import takes_ids
from fastadv.ops.keep_best import keep_best_
from fastadv.ops.keep_nearest import keep_nearest_
from fastadv.ops.logit_loss import ENTROPIES

V = TypeVar("V", Tensor, Tensor | None)


def repeated(values: V, count: int = 1) -> V:
    """Return each value `count` times in a row."""
    return values if values is None or count == 1 else values.repeat_interleave(count, 0)


def of_rows(loss: losses.Loss, ids: Tensor) -> losses.Loss:
    """Return the loss, with the ids of its rows where it takes them."""
    if not (callable(loss) and takes_ids(loss)):
        return loss
    return partial(loss, ids=ids)  # type: ignore[call-arg]


def loss_of(logits: Tensor, y: Tensor, loss: losses.Loss, aims: Tensor | None, ids: Tensor) -> Tensor:
    """Return the loss [n] or [n, C] of logits [n, K] or [n, C, K]."""
    shape, logits = logits.shape[:-1], logits.flatten(0, -2)
    loss = of_rows(loss, repeated(ids, *shape[1:]))
    return losses.loss_value(logits, repeated(y, *shape[1:]), loss, repeated(aims, *shape[1:])).view(shape)


def graded(value: Tensor, logits: Tensor, y: Tensor, loss: losses.Loss, targets: Tensor | None) -> Tensor:
    """Return the loss [n] by which samples rank; the margin, < 0, where cross-entropy is exactly 0."""
    if loss not in ENTROPIES or targets is not None:
        return value
    if not waits(value.device) and bool((value > 0).all()):
        return value
    index = y[:, None]
    other = logits.scatter(1, index, -torch.inf).amax(1)
    return torch.where(value > 0, value, other - logits.gather(1, index).squeeze(1))


def ranked(value: Tensor, count: Tensor | None) -> Tensor:
    """Return by what points compete: how many decisions are as wanted, and the loss where that is equal."""
    return value if count is None else count + 0.5 + value.atan() / math.pi


def strongest(rank: Tensor, success: Tensor) -> Tensor:
    """Return int64 [n], which of C candidates is best: a success, then the highest `rank`; NaN never."""
    order = torch.where(rank.isnan() | (success.any(1, keepdim=True) & ~success), -torch.inf, rank)
    # a success of the lowest rank still comes before any failure
    order = torch.where(success, order.clamp_min(torch.finfo(order.dtype).min), order)
    return order.argmax(1)


def keep_nearest(best: Record, x: Tensor, points: Tensor, success: Tensor, order: float) -> Tensor:
    """Keep the success nearest to x [n, ...] in `best`; return the distances [n] or [n, C] of the points."""
    candidates, met = (points, success) if success.ndim == 2 else (points[:, None], success[:, None])
    return keep_nearest_((best.x_adv, best.rank, best.success), x, candidates, met, order).view(success.shape)


def keep_strongest(
    best: Record, points: Tensor, success: Tensor, rank: Tensor, finite: Tensor | None = None
) -> None:
    """Keep successes first, then the highest rank; never a failure of rank NaN or that is not `finite`."""
    rank = rank if finite is None else torch.where(finite, rank, torch.nan)
    rank = torch.where(success & rank.isnan(), -torch.inf, rank)
    if rank.ndim == 2:
        place = strongest(rank, success)
        row = torch.arange(len(place), device=place.device)
        points, success, rank = points[row, place], success[row, place], rank[row, place]
    keep_best_(best.x_adv, best.rank, best.success, points, rank.to(best.rank.dtype), success)
