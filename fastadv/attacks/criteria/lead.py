"""Lead: the margin of a criterion that asks for several of many decisions."""

import torch
from torch import Tensor


def lead(margins: Tensor, counts: Tensor, needed: Tensor) -> Tensor:
    """Return [B], positive where at least `needed` int64 [B] of the margins [B, P] that count are."""
    # elsewhere the mean of what they lack, whose gradient is one of all decisions that are still to change
    order = margins.where(counts, -torch.inf).sort(1, descending=True).values
    last = order.gather(1, needed[:, None] - 1).squeeze(1)
    among = torch.arange(order.shape[1], device=order.device) < needed[:, None]
    lack = order.clamp_max(0).where(among, 0.0).sum(1) / needed
    return torch.where(last > 0, last, lack)
