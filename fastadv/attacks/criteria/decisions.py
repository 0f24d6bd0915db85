"""Several decisions a sample: how far as many as are needed are turned, and what losses see at positions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv.attacks.core.criterion import WRONG

SOFT = 0.3  # how far from its boundary a decision still counts, over the mean distance of those needed
UNIT = 0.15  # of the mean distance from a decision: the unit in which losses see the logits
LEAST = 1e-20


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


class Positions(NamedTuple):
    """Outputs at P positions: logits z [B, K, P], classes y int64 [B, P], and bool [B, P], which count.

    Losses see `seen`, which are z, or z in units of their own, so that no position falls out of the gradient.
    """

    z: Tensor
    y: Tensor
    counts: Tensor
    seen: Tensor

    def each(self) -> tuple[Tensor, Tensor]:
        """Return logits [B * P, K] and classes [B * P]."""
        return self.z.movedim(1, 2).flatten(0, 1), self.y.flatten()

    def margins(self) -> Tensor:
        """Return [B, P], by how much the largest other logit, as losses see it, exceeds that of the class."""
        return WRONG.margin(self.seen, self.y, None)

    def scaled(self) -> "Positions":
        """Return positions whose logits losses see in units of the mean distance from a decision."""
        unit = (UNIT * self.mean(self.margins().detach().abs())).clamp_min(LEAST)[:, None, None]
        return self._replace(seen=(self.z - self.z.detach().amax(1, keepdim=True)) / unit)

    def mean(self, values: Tensor) -> Tensor:
        """Return [B], the mean of values [B, P] over the positions that count."""
        return values.where(self.counts, 0.0).sum(1) / self.counts.sum(1).clamp_min(1)

    def cross_entropy(self) -> Tensor:
        """Return [B, P]."""
        return cross_entropy(self.seen, self.y, reduction="none")

    def balanced(self, values: Tensor) -> Tensor:
        """Return [B], the mean over classes of the means of values [B, P] at the positions of each."""
        number = self.z.new_zeros(self.z.shape[:2]).scatter_add_(1, self.y, self.counts.to(self.z))
        weight = 1 / number.gather(1, self.y).clamp_min(1) / (number > 0).sum(1, keepdim=True)
        return (weight * values).where(self.counts, 0.0).sum(1)

    def divergence(self) -> Tensor:
        """Return [B, P], the Jensen-Shannon divergence of softmax and class."""
        log_p = -self.cross_entropy()
        p = log_p.exp()  # all other terms vanish: no logarithm of a probability that underflows
        return math.log(2) + (p * log_p - (1 + p) * p.log1p()) / 2

    def cosine(self) -> Tensor:
        """Return [B, P], the cosine of softmax and class, without a gradient."""
        probability = self.seen.detach().softmax(1)
        return probability.gather(1, self.y[:, None]).squeeze(1) / probability.square().sum(1).sqrt()

    def weighted(self, weight: Tensor) -> Tensor:
        """Return the mean cross-entropy [B], whose gradient has the weights [B, P] of the positions."""
        # the value has none: weights that fall with success would rank points the wrong way round
        values = self.cross_entropy()
        return self.mean(values.detach() + weight * (values - values.detach()))
