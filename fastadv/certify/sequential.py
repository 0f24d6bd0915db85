"""How many draws decide a certificate: all of them, or as few as a sequential test needs.

Of A hits in N draws, the mixture of Krichevsky and Trofimov over all probabilities,

    Q(A, N) = Gamma(A + 1/2) Gamma(N - A + 1/2) / (pi Gamma(N + 1)),

divided by the likelihood p^A (1 - p)^(N - A) is a martingale where p is the true probability. By Ville's
inequality it ever reaches 1 / alpha with a probability of at most alpha, whenever one looks and stops. So all
p for which it did not are a confidence sequence; and the lower end of it holds at every radius at once.
"""

import math
from collections.abc import Sequence
from typing import Any

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


def decided(hits: Any, draws: int, probability: Any, alpha: float) -> NDArray[Any]:
    """Return 1 where a probability is at least this one, -1 where it is less, 0 where that is open.

    `alpha` bounds the error of an answer, over all numbers of draws after which one asks.
    """
    hits, probability = np.asarray(hits), np.asarray(probability, dtype=np.float64)
    possible = probability < 1
    beyond = log_ratio(hits, draws, np.where(possible, probability, 0.5)) >= SLACK - math.log(alpha)
    return np.where(possible, beyond * np.sign(hits - draws * probability), -1)


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


def _lgamma(values: Any) -> Any:
    return torch.lgamma(torch.as_tensor(values, device="cpu").clamp(min=0.5)).numpy()


class Fixed:
    """The method of Cohen et al.: n draws, and the exact lower bound of the probability, less the charge."""

    def __init__(self, noise: Noise, n: int, alpha: float, charge: float) -> None:
        self.noise, self.n, self.alpha, self.charge = noise, n, alpha, charge

    def more(self, hits: int, drawn: int) -> int:
        """Return how many draws to make now, 0 where all is decided."""
        return self.n - drawn

    def radius(self, hits: int, drawn: int) -> float:
        """Return the radius that is certified."""
        low = clopper_pearson(hits, drawn, level=1 - 2 * self.alpha).low
        return self.noise.radius(low - self.charge)


class Sequential(Fixed):
    """Draws until every radius is certified or refused, or there were n."""

    def __init__(self, noise: Noise, n: int, alpha: float, charge: float, radii: Sequence[float]) -> None:
        super().__init__(noise, n, alpha, charge)
        self.radii, self.looks = radii, schedule(n)

    def decisions(self, hits: int, drawn: int) -> NDArray[Any]:
        needed = [self.noise.probability(radius) + self.charge for radius in self.radii]
        return decided(hits, drawn, needed, self.alpha)

    def more(self, hits: int, drawn: int) -> int:
        if drawn and self.decisions(hits, drawn).all():
            return 0
        return next((look - drawn for look in self.looks if look > drawn), 0)

    def radius(self, hits: int, drawn: int) -> float:
        """Return the radius that is certified: of the confidence sequence, and of the tests."""
        answers = zip(self.radii, self.decisions(hits, drawn), strict=True)
        tested = max((radius for radius, answer in answers if answer > 0), default=0.0)
        return max(tested, self.noise.radius(lower_bound(hits, drawn, self.alpha) - self.charge))
