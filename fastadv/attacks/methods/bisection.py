"""Bisection, for each sample, of the interval from `rows.low` to `rows.high` [n]."""

import torch
from torch import Tensor

from fastadv.attacks.core.record import Rows


def middle(rows: Rows) -> Tensor:
    """[n] the middle of each interval."""
    center: Tensor = (rows.low + rows.high) / 2
    return center


def halve(rows: Rows, upper: Tensor) -> None:
    """Replace one end of each interval by its middle: the upper end where `upper` bool [n] says so."""
    center = middle(rows)
    rows.low, rows.high = torch.where(upper, rows.low, center), torch.where(upper, center, rows.high)
