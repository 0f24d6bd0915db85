"""Many decisions at once: the margin of as many as are asked for."""

import torch
from torch import Tensor

SOFT = 0.3  # how far from its boundary a decision still counts, over the mean distance of those needed


def lead(margins: Tensor, counts: Tensor, needed: Tensor) -> Tensor:
    """Return [B], positive where at least `needed` int64 [B] of the margins [B, P] that count are."""
    # elsewhere the mean of what they lack. The gradient is that of all of them, less of those that are wrong
    # by much: without these they would turn back as the others turn
    order = margins.where(counts, -torch.inf).sort(1, descending=True).values
    last = order.gather(1, needed[:, None] - 1).squeeze(1)
    among = torch.arange(order.shape[1], device=order.device) < needed[:, None]
    order = order.where(among, 0.0)
    value = torch.where(last > 0, last, order.clamp_max(0).sum(1) / needed)
    if not margins.requires_grad:
        return value
    at = order.detach()
    width = SOFT * at.abs().sum(1, keepdim=True) / needed[:, None]
    weight = torch.sigmoid(-at / width.clamp_min(torch.finfo(at.dtype).tiny)).where(among, 0.0)
    weight = weight / weight.amax(1, keepdim=True) / torch.where(last > 0, 1, needed)[:, None]
    soft = (weight * order).sum(1)
    return value.detach() + (soft - soft.detach())
