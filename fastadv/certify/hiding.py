"""Hidden coordinates in place of noise: certificates for perturbations of few coordinates."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastadv._checks import check_share
from fastadv.certify.noise import ROUNDED, Noise, Table, aliases
from fastadv.ops.noisy_copies import CHOICE, noisy_copies
from fastadv.threat import L0
from fastadv.threat.base import check_box

GREY = 0.5  # how far into the box a hidden coordinate lies
RUNGS = 16  # of the ladder, at most


@dataclass(frozen=True)
class Hiding(Noise):
    """Each coordinate is replaced by the middle of the box with the probability `sigma`; certifies in L0.

    Points that differ from x in r coordinates look like x whenever all r are hidden, which has the
    probability sigma^r. So the probability of a class falls by at most 1 - sigma^r, and a class of
    probability p stays the most probable for all r below log(3/2 - p) / log(sigma). Source: Levine and Feizi
    2020 (arXiv 1911.09272), who keep a fixed number of coordinates.
    """

    norm: Any = L0
    least: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_share("sigma", self.sigma)

    @property
    def steps(self) -> int:
        return 1

    @cached_property
    def table(self) -> Table:
        """That of 0, a coordinate that is kept, and 1, a hidden one."""
        total = 2 << CHOICE
        hidden = round(self.sigma * total)
        return Table(aliases([total - hidden, hidden]), 0, 1 / total + ROUNDED)

    def radius(self, probability: float) -> float:
        if not probability > 0.5:
            return 0.0
        # rounded down: a class that is only as probable as the others is not certified
        return math.log(1.5 - min(probability, 1.0)) / math.log(self.sigma) * (1 - 1e-12)

    def probability(self, radius: float) -> float:
        return 1.5 - math.pow(self.sigma, radius * (1 + 2e-12)) + 1e-15

    @property
    def ladder(self) -> list[float]:
        most = math.ceil(self.radius(1.0))
        return [float(r) for r in range(0, most + 1, max(1, math.ceil(most / RUNGS)))]

    @property
    def shown(self) -> list[float]:
        return self.ladder[:7]

    def reach(self, radius: float, elements: int) -> float:
        return float(min(math.floor(radius), elements))

    def copies(
        self, levels: Tensor, counts: Tensor, ids: Tensor, first: Tensor, table: Tensor, seed: int,
        dtype: torch.dtype, total: int | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        arguments = torch.zeros_like(levels), counts, ids, first, table, 0, 1.0, seed
        hidden, rows = noisy_copies(*arguments, dtype=dtype, total=total)
        middle = self.grid[0] + GREY * self.grid[1]
        return torch.where(hidden > 0, middle, self.points(levels).to(dtype)[rows]), rows


def noise_of(sigma: float, norm: Any, box: tuple[float, float] = (0.0, 1.0)) -> Noise:
    """Return what hides an image from a model; `sigma` is a deviation, or in L0 the share of coordinates."""
    box = check_box(box)
    return Hiding(sigma, box=box) if norm is L0 else Noise(sigma, norm, box)
