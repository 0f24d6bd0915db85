"""Outputs that were squashed into an interval, which bends every loss of their differences.

A sigmoid or tanh of each logit leaves the decision as it was. But where it saturates, an output falls out of
the gradient, and a search follows the outputs in the middle of the interval, whatever their classes.
In [0, 1] and [-1, 1] the loss is that of the logits before a sigmoid or tanh. In another interval, whose ends
are not known, it is the margin, of which both outputs count alike: no squashing changes the direction of an
output's own gradient. A row's own outputs tell the interval, where most of them crowd at its ends.
"""

import math

import torch
from torch import Tensor

from fastadv import losses
from fastadv.engine import Prepared
from fastadv.ops._rows import like

LOSSES = ("ce_sharp", "margin")  # the defaults; those that papers chose stay as they are
UNIT, SYMMETRIC, UNKNOWN = 1, 2, 3  # [0, 1], [-1, 1], another interval
FEWEST = 5  # classes, of fewer a crowd is chance
END, CROWD = 0.1, 0.5  # of a known interval: what is near an end, and the share of outputs that must be
MOST, NEAR = 0.7, 0.02  # of another: the share of outputs at one end, and of the range what is near it
LEAST = 1e-7  # the distance from an end that float32 still tells


def may_crowd(logits: Tensor) -> Tensor:
    """Return bool [], whether some rows may be such: a look of a few microseconds, which reads nothing."""
    if logits.shape[1] < FEWEST:
        return logits.new_zeros((), dtype=torch.bool)
    low, high, at_an_end = _ends(logits.sort(1).values)
    return torch.any(at_an_end | (torch.maximum(high, -low) <= 1))


def bounded(logits: Tensor) -> Tensor | None:
    """Return int64 [B], in which interval a row's outputs crowd at an end, 0 for none; None for no row."""
    if logits.shape[1] < FEWEST:
        return None
    rows = logits.sort(1).values
    low, high, at_an_end = _ends(rows)
    unit, symmetric = (
        (start <= low) & (high <= 1) & (((rows <= start + END) | (rows >= 1 - END)).float().mean(1) >= CROWD)
        for start in (0, -1)
    )
    symmetric &= ~unit
    unknown = at_an_end & ~unit & ~symmetric
    found = UNIT * unit + SYMMETRIC * symmetric + UNKNOWN * unknown
    return found if bool(found.any()) else None


def _ends(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least and the largest of each sorted row, and whether most of it is near one of them."""
    most = math.ceil(MOST * (rows.shape[1] - 1))
    low, lower, upper, high = (rows.select(1, place) for place in (0, most, -1 - most, -1))
    return low, high, torch.minimum(lower - low, high - upper) <= NEAR * (high - low)


def unbent(
    classifier: Prepared, points: Tensor, y: Tensor, loss: losses.Loss, aims: Tensor | None, interval: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, logits and gradient at points [n, ...] of rows whose outputs lie in the `interval` [n]."""
    apart = like(interval == UNKNOWN, points)

    def directions(logits: Tensor) -> Tensor:
        """Return [n, C, K]: what is to rise and, where both are to count alike, what is to fall."""
        low = torch.where(interval == SYMMETRIC, -1.0, 0.0).to(logits)[:, None]
        share = (logits - low) / (1 - low)
        known = (interval[:, None] % UNKNOWN > 0) & ((share >= 0) & (share <= 1)).all(1, keepdim=True)
        share = share.clamp(LEAST, 1 - LEAST)
        inverse = share.logit() / (1 - low)  # of tanh it is half as large
        by = losses.loss_and_grad(torch.where(known, inverse, logits), y, loss, aims, True)[1]
        by = torch.where(known, by * LEAST / (share * (1 - share)), by)
        if not bool(apart.any()):
            return by[:, None]
        margin = losses.loss_and_grad(logits, y, "margin", aims)[1]
        both = torch.stack([margin.clamp_min(0), margin.clamp_max(0)], 1)
        return torch.where(apart.view(-1, 1, 1), both, torch.stack([by, torch.zeros_like(by)], 1))

    logits, gradients = classifier.jacobian(points, directions)
    largest = gradients.flatten(2).abs().amax(2).clamp_min(torch.finfo(gradients.dtype).tiny)
    units = gradients / like(largest, gradients)  # whose squares are in the range of the dtype
    units = units / like(units.flatten(2).norm(dim=2).clamp_min(0.5), units)
    gradient = torch.where(apart, units.sum(1), gradients[:, 0])
    return losses.loss_value(logits, y, loss, aims), logits, gradient
