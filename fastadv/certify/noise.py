"""The noise of a certificate, discrete, so that sums with images on a grid are exact.

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

import torch
from torch import Tensor

from fastadv._checks import check_number
from fastadv.errors import InputError
from fastadv.ops.noisy_copies import ALIASES, CHOICE

LEVELS = 255  # images are whole numbers of 1 / 255
FINE = 100  # steps of the grid for each sigma, at least
CUT = 6.0  # deviations; what lies beyond is charged
ROUNDED = 1e-12  # bounds the rounding of all probabilities of an element in double precision
NEAR = 1e-4  # how far 255 x may be from a whole number
RUNGS = 4  # of the ladder of radii, for each deviation
CEILING = 4.0  # deviations: no 100,000 draws certify more than 3.81
NORMAL = NormalDist()


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of one deviation, which certifies in L2.

    Cohen et al. 2019 (arXiv 1902.02918), theorem 1: radius sigma * quantile(p).
    """

    sigma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", check_number("sigma", self.sigma, 0))
        if not 1e-4 <= self.sigma <= 10:
            raise InputError(f"sigma: expected a number from 0.0001 to 10, in input units, got {self.sigma}")

    @cached_property
    def steps(self) -> int:
        """How many steps of the grid make 1 / 255: a power of two."""
        return 1 << max(1, math.ceil(math.log2(FINE / (LEVELS * self.sigma))))

    @property
    def step(self) -> float:
        return 1 / (LEVELS * self.steps)

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
        return self.sigma * NORMAL.inv_cdf(probability) if probability < 1 else math.inf

    def probability(self, radius: float) -> float:
        """Return the probability that a class must have to be certified within the radius."""
        return NORMAL.cdf(radius / self.sigma)

    def levels(self, x: Tensor, sound: bool = True) -> Tensor:
        """Return images as whole numbers of steps, int32; InputError off the grid of 1/255 where `sound`."""
        coarse = x.double() * LEVELS
        if not sound and bool(((coarse * self.steps).abs() < 1 << 30).all()):  # with noise below 2^31
            return (coarse * self.steps).round().to(torch.int32)
        whole = coarse.round()
        if not bool(((coarse - whole).abs() <= NEAR).all() & (x >= 0).all() & (x <= 1).all()):
            raise InputError(
                "x: expected images on the grid of 1/255 in [0, 1], as 8-bit images divided by 255 are; put "
                "normalization into the model, round the images, or certify their nearest points on the "
                "grid: pass sound=False"
            )
        return (whole * self.steps).to(torch.int32)

    @property
    def ladder(self) -> list[float]:
        """The radii on which a sequential test decides unless some are asked for."""
        return [self.sigma * k / RUNGS for k in range(int(CEILING * RUNGS) + 1)]


@dataclass(frozen=True)
class Table:
    """An alias table (`fastadv.ops.noisy_copies`), and a bound on its distance from the distribution."""

    entries: Tensor  # int64 [2^b]
    center: int  # the column of zero
    charge: float  # of the total variation of one element


@cache
def _table(noise: Noise) -> Table:
    h = noise.step
    last = math.floor(CUT * noise.sigma / h)
    # the probabilities that the noise lies above the edges between steps
    edges = [math.erfc((k - 0.5) * h / noise.sigma / math.sqrt(2)) / 2 for k in range(1, last + 2)]
    probabilities = [1 - 2 * edges[0], *(a - b for a, b in itertools.pairwise(edges))]
    both = [*probabilities[:0:-1], *probabilities]
    size = 1 << max(1, (len(both) - 1).bit_length())
    if size > 1 << ALIASES:
        raise InputError(f"sigma: expected at most 10 in steps of 1/510, got {noise.sigma}")
    total, mass = size << CHOICE, math.fsum(both)
    weights = [round(p / mass * total) for p in both] + [0] * (size - len(both))
    moved = total - sum(weights)
    weights[last] += moved
    rounded = (size + 2 * abs(moved)) / total + ROUNDED
    return Table(aliases(weights), last, 2 * edges[-1] + rounded)


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
