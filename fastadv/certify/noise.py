"""The noise of a certificate, discrete, so that sums with images on a grid are exact; or hidden coordinates.

Smoothing by Gaussian noise whose sum with an image is rounded to a grid equals, for an image on that grid,
adding noise that was itself rounded to it. So a certificate for real numbers holds for what a computer
evaluates (Voracek and Hein 2022, arXiv 2207.07209). Rounding in floating point has no such proof: how a sum
rounds can tell the model what the image was.

What the table cannot hold exactly is charged to the certificate: `charge` bounds how much the probability of
any event may differ between the noise that is drawn and the one that the theorem speaks of.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastadv._checks import check_share
from fastadv.errors import InputError
from fastadv.ops.noisy_copies import ALIASES, CHOICE, noisy_copies
from fastadv.threat import L0, L1, L2
from fastadv.threat.base import box_in, check_box

LEVELS = 255  # images are whole numbers of 1 / 255 of the box
FINE = 100  # steps of the grid for each sigma, at least
CUT = 6.0  # deviations; what lies beyond is charged
ROUNDED = 1e-12  # bounds the rounding of all probabilities of an element in double precision
NEAR = 1e-4  # how far 255 x may be from a whole number
RUNGS = 4  # of the ladder of radii, for each deviation
HIDING_RUNGS = 16  # of the ladder of numbers of hidden coordinates, at most
GREY = 0.5  # how far into the box a hidden coordinate lies
CEILING = 4.0  # deviations: no 100,000 draws certify more than 3.81
NORMAL = NormalDist()


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, which certifies in L2, or uniform noise, which certifies in L1, of one deviation.

    L2: Cohen et al. 2019 (arXiv 1902.02918), theorem 1: radius sigma * quantile(p). L1: Yang et al. 2020
    (arXiv 2002.08118): noise uniform in [-w, w] has the radius w * (2 p - 1). For two cubes of width 2 w
    whose centers are d apart share 1 - sum |d_i| / 2 w of their volume, or more: p falls by at most
    |d|_1 / 2 w, and stays above one half within that radius.
    """

    sigma: float
    norm: Any = L2
    box: tuple[float, float] = (0.0, 1.0)
    least: ClassVar[float] = 0.0  # the smallest radius that says something

    def __post_init__(self) -> None:
        number = isinstance(self.sigma, int | float) and not isinstance(self.sigma, bool)
        wide = self.grid[1]
        if not (number and 1e-4 <= self.sigma / wide <= 10):
            expected = f"a number from {1e-4 * wide:g} to {10 * wide:g}, in input units"
            raise InputError(f"sigma: expected {expected}, got {self.sigma!r}")
        if self.norm not in (L2, L1):
            raise InputError(f"norm: expected fa.L2, fa.L1 or fa.L0, got {self.norm!r}")

    @property
    def grid(self) -> tuple[float, float]:
        """Where the grid begins, and how wide the box is; 0 and 1 for an infinite one."""
        low, high = self.box
        return (low, high - low) if math.isfinite(high - low) else (0.0, 1.0)

    @property
    def width(self) -> float:
        return math.sqrt(3) * self.sigma

    @cached_property
    def steps(self) -> int:
        """How many steps of the grid make 1 / 255 of the box: a power of two."""
        return 1 << max(1, math.ceil(math.log2(FINE / (LEVELS * self.sigma / self.grid[1]))))

    @property
    def step(self) -> float:
        return self.grid[1] / (LEVELS * self.steps)

    @cached_property
    def table(self) -> "Table":
        return _table(self)

    def charge(self, elements: int) -> float:
        """Bound how much any probability may change by what is drawn for images of so many elements."""
        return elements * self.table.charge

    def radius(self, probability: float) -> float:
        """Return the radius within which a class of this probability, at least, is the most probable."""
        if not probability > 0.5:
            return 0.0
        if self.norm is L1:
            return self.width * (2 * probability - 1)
        return self.sigma * NORMAL.inv_cdf(probability) if probability < 1 else math.inf

    def probability(self, radius: float) -> float:
        """Return the probability that a class must have to be certified within the radius."""
        if self.norm is L1:
            return (radius / self.width + 1) / 2
        return NORMAL.cdf(radius / self.sigma)

    def levels(self, x: Tensor, sound: bool = True) -> Tensor:
        """Return images as whole numbers of steps, int32; InputError off the grid of 1/255 where `sound`."""
        (low, high), (origin, wide) = box_in(self.box, x.dtype), self.grid
        coarse = (x.double() - origin) / wide * LEVELS
        if not sound and bool(((coarse * self.steps).abs() < 1 << 30).all()):  # with noise below 2^31
            return (coarse * self.steps).round().to(torch.int32)
        whole = coarse.round()
        if not bool(((coarse - whole).abs() <= NEAR).all() & (x >= low).all() & (x <= high).all()):
            raise InputError(
                f"x: expected images on the grid of 1/255 in [{low:g}, {high:g}], as 8-bit images divided by "
                "255 are in [0, 1]; put normalization into the model, round the images, say their box, or "
                "certify their nearest points on the grid: pass sound=False (--rounded)"
            )
        return (whole * self.steps).to(torch.int32)

    def points(self, levels: Tensor) -> Tensor:
        """Return the points of the grid, float64, of whole numbers of its steps."""
        return levels.double() * self.step + self.grid[0]

    @property
    def ladder(self) -> list[float]:
        """The radii on which a sequential test decides unless some are asked for."""
        return [self.sigma * k / RUNGS for k in range(int(CEILING * RUNGS) + 1)]

    @property
    def shown(self) -> list[float]:
        """The radii of a table unless some are asked for: zero, then the first few."""
        return self.ladder[:14:2]

    def reach(self, radius: float, elements: int) -> float:
        """Return the largest distance within a radius that two images of so many elements can have."""
        return radius

    def copies(
        self, levels: Tensor, counts: Tensor, ids: Tensor, first: Tensor, table: Tensor, seed: int,
        dtype: torch.dtype, total: int | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Do as `noisy_copies`; table: the entries of the noise's own, where the images are."""
        copies, rows = noisy_copies(
            levels, counts, ids, first, table, self.table.center, self.step, seed, dtype=dtype, total=total
        )
        return copies.add_(self.grid[0]) if self.grid[0] else copies, rows


@dataclass(frozen=True)
class Table:
    """An alias table (`fastadv.ops.noisy_copies`), and a bound on its distance from the distribution."""

    entries: Tensor  # int64 [2^b]
    center: int  # the column of zero
    charge: float  # of the total variation of one element


@cache
def _table(noise: Noise) -> Table:
    h = noise.step
    if noise.norm is L1:
        last = math.floor(noise.width / h + 0.5)
        probabilities = [_overlap(k, noise.width / h) for k in range(last + 1)]
        tail = 0.0
    else:
        last = math.floor(CUT * noise.sigma / h)
        # the probabilities that the noise lies above the edges between steps
        edges = [math.erfc((k - 0.5) * h / noise.sigma / math.sqrt(2)) / 2 for k in range(1, last + 2)]
        probabilities = [1 - 2 * edges[0], *(a - b for a, b in itertools.pairwise(edges))]
        tail = 2 * edges[-1]
    both = [*probabilities[:0:-1], *probabilities]
    size = 1 << max(1, (len(both) - 1).bit_length())
    if size > 1 << ALIASES:
        raise InputError(f"sigma: expected at most 10 in steps of 1/510, got {noise.sigma}")
    total, mass = size << CHOICE, math.fsum(both)
    weights = [round(p / mass * total) for p in both] + [0] * (size - len(both))
    moved = total - sum(weights)
    weights[last] += moved
    rounded = (size + 2 * abs(moved)) / total + ROUNDED
    return Table(aliases(weights), last, tail + rounded)


def _overlap(k: int, width: float) -> float:
    """Return the share of [-width, width] that is rounded to k."""
    return max(0.0, min(k + 0.5, width) - max(k - 0.5, -width)) / (2 * width)


def aliases(weights: list[int]) -> Tensor:
    """Return the table whose columns are drawn by these weights, exactly (Vose 1991)."""
    full = 1 << CHOICE  # what a column holds
    left = list(weights)
    entries = [0] * len(left)
    short = [k for k, weight in enumerate(left) if weight < full]
    long = [k for k, weight in enumerate(left) if weight >= full]
    while short:
        k, donor = short.pop(), long[-1]
        entries[k] = left[k] << ALIASES | donor
        left[donor] -= full - left[k]
        if left[donor] < full:
            short.append(long.pop())
    for k in long:  # each is full: whatever the threshold, the column itself
        entries[k] = (full - 1) << ALIASES | k
    return torch.tensor(entries, dtype=torch.int64, device="cpu")


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
        return [float(r) for r in range(0, most + 1, max(1, math.ceil(most / HIDING_RUNGS)))]

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
