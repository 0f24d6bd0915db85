"""Bisection of an interval of each sample."""

import torch
from torch import Tensor

from fastadv.attacks.core import Rows


class Interval(Rows):
    """The ends [n] of each interval."""

    low: Tensor
    high: Tensor


def middle(rows: Interval) -> Tensor:
    return (rows.low + rows.high) / 2


def halve(rows: Interval, upper: Tensor) -> None:
    """Replace one end of each interval by its middle: the upper end where `upper` bool [n] says so."""
    center = middle(rows)
    rows.low, rows.high = torch.where(upper, rows.low, center), torch.where(upper, center, rows.high)
