"""Bootstrap intervals: how far a measured figure may lie from its value on all images of this kind."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fastadv import rng
from fastadv._checks import check_count, check_share
from fastadv.errors import InputError

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
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a statistic over samples (Efron and Tibshirani 1993, section 13.3).

    The samples are drawn again, with repetition, `resamples` times; the interval holds the middle share
    `level` of the statistics. Its ends are values that occurred, so that medians may be infinite.

    Args:
        values: [N] or [N, ...], one for each sample; infinity is allowed, NaN is not.
        statistic: from the values of a resample, of the shape of `values`, to a number or an array.
        level: between 0 and 1.
        resamples: at least 1.
        seed: the draws follow from it.

    Raises InputError for no samples, NaN, and arguments out of range.
    """
    given = np.asarray(values)
    if given.ndim == 0 or len(given) == 0 or np.isnan(given).any():
        raise InputError(
            f"values: expected one number for each of at least one sample, without NaN, got shape "
            f"{given.shape}; leave out samples that have no value"
        )
    check_share("level", level)
    check_count("resamples", resamples, 1)
    drawn = _resamples(len(given), resamples, rng.derive(seed, "bootstrap"))
    results = np.asarray([statistic(given[index]) for index in drawn], dtype=np.float64)
    # not interpolated: between two infinities that would be NaN
    ends = np.quantile(results, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return Interval(*(float(end) if end.ndim == 0 else end for end in ends))


def _resamples(size: int, count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield `count` times `size` positions below `size`, drawn with repetition."""
    several = max(1, BLOCK // size)
    for start in range(0, count, several):
        ids = torch.arange(start, min(start + several, count))
        # words of 32 bits: uniform to within size / 2^32
        yield from ((rng.bits(size, seed, ids) * size) >> 32).numpy()
