"""Intervals: how far a measured figure may lie from its value on all images of this kind.

Shares have the exact interval of a binomial probability, since resamples of 0% or 100% never differ; medians
and other statistics have that of the bootstrap.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fastadv import rng
from fastadv._checks import check_count, check_share
from fastadv.errors import InputError

__all__ = ["Interval", "bootstrap", "clopper_pearson"]

BLOCK = 1 << 20  # positions drawn at once
Statistic = Callable[[NDArray[Any]], ArrayLike]


class Interval(NamedTuple):
    """The ends of an interval: two numbers, or two arrays where the statistic gives an array."""

    low: Any
    high: Any


def mean(values: NDArray[Any]) -> float:
    """Return the mean; an accuracy where the values are bool."""
    return float(np.mean(values))


def median(values: NDArray[Any]) -> float:
    """Return the median; between a finite value and an infinite one it is infinite."""
    return float(np.median(values))


def bootstrap(
    values: ArrayLike, statistic: Statistic = mean, *, level: float = 0.95, resamples: int = 1000,
    seed: int = 0,
) -> Interval:  # fmt: skip
    """Return the percentile interval of a statistic over samples.

    For a share, such as an accuracy, `clopper_pearson` is exact; here 0% and 100% would have no width. The
    samples are drawn again, with repetition, `resamples` times; the interval holds the middle share `level`
    of the statistics. Its ends are values that occurred, so that medians may be infinite.

    Args:
        values: [N] or [N, ...], one for each sample; infinity is allowed, NaN is not.
        statistic: a function from the values of a resample, of the shape of `values`, to a number or an
            array; the mean by default.
        level: the share of the statistics inside the interval, between 0 and 1.
        resamples: how often the samples are drawn again, at least 1.
        seed: of the random numbers.

    Returns:
        The `Interval`.

    Raises:
        InputError: there are no samples, a value is NaN, or an argument is out of range.

    Example:
        >>> import fastadv as fa
        >>> low, high = fa.bootstrap([0.1, 0.4, 0.2, 0.3], seed=1)
        >>> 0.1 <= low <= 0.25 <= high <= 0.4
        True

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    sample = np.asarray(values)
    if sample.ndim == 0 or len(sample) == 0 or np.isnan(sample).any():
        raise InputError(
            f"values: expected one number for each of at least one sample, without NaN, got shape "
            f"{sample.shape}; leave out samples that have no value"
        )
    check_share("level", level)
    check_count("resamples", resamples, 1)
    drawn = _resamples(len(sample), resamples, rng.derive(seed, "bootstrap"))
    results = np.asarray([statistic(sample[index]) for index in drawn], dtype=np.float64)
    # Interpolation between two infinities would be NaN
    ends = np.quantile(results, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return Interval(*(float(end) if end.ndim == 0 else end for end in ends))


def clopper_pearson(right: ArrayLike, count: int, *, level: float = 0.95) -> Interval:
    """Return the exact interval of a probability, given `right` successes in `count` independent trials.

        P(X >= right | low) = P(X <= right | high) = (1 - level) / 2,    X binomial (count, p)

    low is 0 for no success, and high 1 for successes only.

    Args:
        right: integers from 0 to `count`, of any shape.
        count: the number of trials, at least 1.
        level: the probability of the interval, between 0 and 1.

    Returns:
        The `Interval`; its ends are arrays like `right`, or numbers for a number.

    Raises:
        InputError: an argument is out of range.

    Source:
        Clopper and Pearson 1934, "The Use of Confidence or Fiducial Limits".
    """
    check_count("count", count, 1)
    check_share("level", level)
    counts = np.asarray(right)
    if counts.dtype.kind not in "iu" or (counts < 0).any() or (counts > count).any():
        raise InputError(f"right: expected integers from 0 to {count}, the count, got {right!r}")
    values, places = np.unique(counts, return_inverse=True)
    low = np.array([_low(int(k), count, (1 - level) / 2) for k in values])
    high = np.array([1 - _low(count - int(k), count, (1 - level) / 2) for k in values])
    ends = [end[places].reshape(counts.shape) for end in (low, high)]
    return Interval(*(float(end) if counts.ndim == 0 else end for end in ends))


def of_share(share: float, count: int) -> Interval:
    """Return the exact 95% interval of a share of `count` samples; NaN for NaN."""
    # the trials are the samples: where each has a mean of its own, as of several draws, it is rather too wide
    none = Interval(math.nan, math.nan)
    return none if math.isnan(share) else clopper_pearson(round(share * count), count)


def of_difference(values: NDArray[Any]) -> Interval:
    """Return the 95% interval of a mean [n] of paired differences, each from -1 to 1.

    Wald's, with one more pair of each sign, so that it has a width where no pair differs (Bonett and Price
    2012).
    """
    more = np.append(values, [1.0, -1.0])
    half = NormalDist().inv_cdf(0.975) * float(more.std()) / math.sqrt(len(more))
    return Interval(float(more.mean()) - half, float(more.mean()) + half)


def mcnemar(one: int, other: int) -> float:
    """Return the probability that pairs which differ are split at least so unevenly, by a fair coin."""
    term = total = 1  # ways of `least` heads or fewer, in whole numbers
    for k in range(min(one, other)):
        term = term * (one + other - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / (1 << (one + other)))


@lru_cache(1 << 8)
def of_population(found: int, drawn: int, size: int, level: float) -> tuple[int, int]:
    """Return the ends of the exact interval of K, the members of a finite population that have a property.

    `found` of `drawn` have it, that were drawn without replacement from `size`; each end is the last K that
    leaves what was found, or what is farther from it, a probability above (1 - level) / 2.
    """
    tail = (1 - level) / 2
    return size - _most(drawn - found, drawn, size, tail), _most(found, drawn, size, tail)


def _most(found: int, drawn: int, size: int, tail: float) -> int:
    """Return the largest K with P(X <= found | K) > tail, X hypergeometric, by bisection in whole numbers."""
    low, high = found, size - drawn + found + 1  # the probability is 1 at low, and 0 at high
    while high - low > 1:
        k = (low + high) // 2
        least = max(0, drawn - size + k)
        term = total = math.comb(k, least) * math.comb(size - k, drawn - least)
        for x in range(least, found):
            term = term * (k - x) * (drawn - x) // ((x + 1) * (size - k - drawn + x + 1))
            total += term
        low, high = (k, high) if total / math.comb(size, drawn) > tail else (low, k)
    return low


@lru_cache(1 << 14)  # the draws of all attacks ask for the same
def _low(right: int, count: int, tail: float) -> float:
    """Return the p with P(X >= right | p) = tail, by bisection on the sum of the binomial probabilities."""
    if right == 0:
        return 0.0
    # Below right / count the terms fall: those left out are less than exp(-50) of all (Hoeffding).
    last = min(count, right + 40 + 5 * math.isqrt(count))
    k = torch.arange(right, last + 1, dtype=torch.float64, device="cpu")
    ways = math.lgamma(count + 1) - torch.lgamma(k + 1) - torch.lgamma(count - k + 1)
    low, high = 0.0, right / count  # where the tail is one half or more
    for _ in range(50):  # 1 - p stays a number above 0
        p = (low + high) / 2
        above = float((ways + k * math.log(p) + (count - k) * math.log1p(-p)).logsumexp(0).exp()) > tail
        low, high = (low, p) if above else (p, high)
    return low


def _resamples(size: int, count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield `count` times `size` positions below `size`, drawn with repetition."""
    several = max(1, BLOCK // size)
    for start in range(0, count, several):
        ids = torch.arange(start, min(start + several, count), device="cpu")
        # words of 32 bits: uniform to within size / 2^32
        yield from ((rng.bits(size, seed, ids) * size) >> 32).numpy()
