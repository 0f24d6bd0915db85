"""How many draws decide a certificate: all of them, or as few as a sequential test needs.

Of A hits in N draws, the mixture of Krichevsky and Trofimov over all probabilities,

    Q(A, N) = Gamma(A + 1/2) Gamma(N - A + 1/2) / (pi Gamma(N + 1)),

divided by the likelihood p^A (1 - p)^(N - A) is a martingale where p is the true probability. By Ville's
inequality it ever reaches 1 / alpha with a probability of at most alpha, whenever one looks and stops. So all
p for which it did not are a confidence sequence; and the lower end of it holds at every radius at once.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastadv.certify.noise import Noise
from fastadv.intervals import clopper_pearson

SLACK = 1e-6  # of the logarithm of the bound, against rounding: logarithms of Gamma are right to 1e-9
GROWTH = 1.25  # of the number of draws between two looks
FIRST = 16  # draws before the first look


def schedule(n: int) -> tuple[int, ...]:
    """Return the numbers of draws after which the test looks, the last of them n."""
    looks = [min(FIRST, n)]
    while looks[-1] < n:
        looks.append(min(n, math.ceil(GROWTH * looks[-1])))
    return tuple(looks)


class Decision(NamedTuple):
    """Whole numbers that decide after some draws: `accept` hits or more say yes, `reject` or fewer say no."""

    accept: int
    reject: int


@cache
def thresholds(probability: float, alpha: float, looks: tuple[int, ...]) -> dict[int, Decision]:
    """Return the test whether a probability is at least this one, by numbers of draws, `looks`.

    `alpha` bounds the error of an answer, over all looks. Where no hits decide, it is (draws + 1, -1).
    """
    draws = np.asarray(looks)
    if probability >= 1:
        return {look: Decision(look + 1, look) for look in looks}
    bound = -math.log(alpha) + SLACK

    def beyond(hits: NDArray[Any]) -> NDArray[Any]:
        return log_ratio(hits, draws, probability) >= bound

    # the ratio falls in the hits up to about N p, and rises from there on
    middle = np.clip(np.floor(draws * probability).astype(np.int64), 0, draws)
    accept = _first(beyond, middle, draws + 1)
    reject = draws - _first(lambda misses: beyond(draws - misses), draws - middle, draws + 1)
    return {look: Decision(int(a), int(r)) for look, a, r in zip(looks, accept, reject, strict=True)}


def log_ratio(hits: Any, draws: Any, probability: Any) -> NDArray[Any]:
    """Return the logarithm of the martingale."""
    hits, misses = np.asarray(hits, dtype=np.float64), np.asarray(draws - hits, dtype=np.float64)
    mixture = _lgamma(hits + 0.5) + _lgamma(misses + 0.5) - math.log(math.pi) - _lgamma(hits + misses + 1)
    return np.asarray(mixture - hits * np.log(probability) - misses * np.log1p(-probability))


def lower_bound(hits: int, draws: int, alpha: float) -> float:
    """Return the lower end of the confidence sequence, at least 0 and below hits / draws."""
    if hits == 0:
        return 0.0
    low, high = 0.0, hits / draws
    bound = -math.log(alpha) + SLACK
    for _ in range(60):
        middle = (low + high) / 2
        if middle <= low or middle >= high:
            break
        if log_ratio(hits, draws, middle) >= bound:
            low = middle
        else:
            high = middle
    return low


def _first(holds: Any, low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """Return for each place the first number from `low` to `high` for which it holds; it holds at `high`."""
    low, high = low.copy(), high.copy()
    while (low < high).any():
        middle = (low + high) // 2
        found = holds(np.minimum(middle, high))
        high = np.where(found, middle, high)
        low = np.where(found, low, np.minimum(middle + 1, high))
    return high


def _lgamma(values: Any) -> Any:
    return torch.lgamma(torch.as_tensor(values, device="cpu").clamp(min=0.5)).numpy()


class Fixed:
    """The method of Cohen et al.: n draws, and the exact lower bound of the probability."""

    def __init__(self, noise: Noise, n: int, alpha: float) -> None:
        self.noise, self.n, self.alpha = noise, n, alpha

    def more(self, hits: int, drawn: int, charge: float) -> int:
        """Return how many draws to make now, 0 where all is decided."""
        return self.n - drawn

    def radius(self, hits: int, drawn: int, charge: float) -> float:
        """Return the radius that is certified."""
        low = clopper_pearson(hits, drawn, level=1 - 2 * self.alpha).low
        return self.noise.radius(low - charge)


class Sequential:
    """Draws until every radius is certified or refused, or there were n."""

    def __init__(self, noise: Noise, radii: Sequence[float], n: int, alpha: float) -> None:
        self.noise, self.radii, self.n, self.alpha = noise, radii, n, alpha
        self.looks = schedule(n)

    def decisions(self, drawn: int, charge: float) -> list[Decision]:
        """Return the tests of the radii after these draws."""
        needed = [self.noise.probability(radius) + charge for radius in self.radii]
        return [thresholds(p, self.alpha, self.looks)[drawn] for p in needed]

    def more(self, hits: int, drawn: int, charge: float) -> int:
        """Return how many draws to make now, 0 where all is decided."""
        if drawn and all(not one.reject < hits < one.accept for one in self.decisions(drawn, charge)):
            return 0
        return next((look - drawn for look in self.looks if look > drawn), 0)

    def radius(self, hits: int, drawn: int, charge: float) -> float:
        """Return the radius that is certified: of the confidence sequence, and of the tests."""
        proved = zip(self.radii, self.decisions(drawn, charge), strict=True)
        tested = max((radius for radius, one in proved if hits >= one.accept), default=0.0)
        return max(tested, self.noise.radius(lower_bound(hits, drawn, self.alpha) - charge))


def judge_of(noise: Noise, rule: Mapping[str, Any]) -> Fixed | Sequential:
    """Return what decides, by the arguments of `smooth`."""
    n, alpha, asked = rule["n"], rule["alpha"], rule["radii"]
    if not rule["sequential"]:
        return Fixed(noise, n, alpha)
    return Sequential(noise, sorted(asked or noise.ladder), n, alpha)
