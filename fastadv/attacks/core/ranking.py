"""How the points of a sample rank against each other."""

from typing import TypeVar

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.waiting import waits

V = TypeVar("V", Tensor, Tensor | None)


def repeated(values: V, count: int = 1) -> V:
    """Return each value `count` times in a row."""
    return values if values is None or count == 1 else values.repeat_interleave(count)


def graded(value: Tensor, logits: Tensor, y: Tensor, loss: losses.Loss, targets: Tensor | None) -> Tensor:
    """Return the loss `value` [n], by which samples rank.

    Where cross-entropy is exactly 0, as it is for very confident ones, the margin takes its place; it is < 0.
    """
    if loss != "ce" or targets is not None:
        return value
    if not waits(value.device) and (not len(value) or bool(value.min() > 0)):
        return value
    index = y[:, None]
    other = logits.scatter(1, index, -torch.inf).amax(1)
    return torch.where(value > 0, value, other - logits.gather(1, index).squeeze(1))


def strongest(rank: Tensor, success: Tensor) -> Tensor:
    """Return int64 [n], which of C candidates is the best: a success, then the highest rank.

    rank [n, C], NaN for what may not compete; success bool [n, C].
    """
    order = torch.where(rank.isnan() | (success.any(1, keepdim=True) & ~success), -torch.inf, rank)
    # a success of the lowest rank still comes before any failure
    order = torch.where(success, order.clamp_min(torch.finfo(order.dtype).min), order)
    return order.argmax(1)
