"""A net of one threshold with its points, and rows as parity stores them."""

from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.store import Row
from tests.parity.verdict import Line


class Threshold(nn.Module):
    """Class 1 where the first coordinate is above one half."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)


# the fourth is wrong from the start; the last has label 1, since the argmax of NaN is 0
X = torch.tensor([[0.2, 0.1], [0.2, 0.1], [0.2, 0.1], [0.9, 0.1], [0.9, 0.1]])
Y = torch.tensor([0, 0, 0, 0, 1])


def row(package: str, figure_of: float, radius: float = inf, passes: int = 200, **more: Any) -> Row:
    figure = {"robust_accuracy" if radius < inf else "median": figure_of}
    same = {"net": "linf", "variant": "full", "case": "toy-l2", "attack": "toy", "norm": "l2", "settings": ""}
    spent = {"images": 100, "forwards": 50 * passes, "backwards": 50 * passes, "budget": {"steps": 5}}
    about = {"radius": radius, "package": package, "version": "1", "date": "2026-01-01"}
    return {**same, **about, **figure, **spent, **more}


def line(ours: Row, *peers: Row) -> Line:
    return Line(ours, peers)
