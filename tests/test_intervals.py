"""Exact intervals, and those of the bootstrap: coverage, infinite ends, and draws from the seed."""

import math

import numpy as np
import pytest
import torch
from scipy.special import betaincinv
from scipy.stats import binomtest

from fastadv.intervals import bootstrap, clopper_pearson, mcnemar, mean, median, of_difference
from tests.refusals import refuses

VALUES = np.random.default_rng(0).normal(5.0, 2.0, 400)


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem():
    low, high = bootstrap(VALUES, mean, resamples=2000)
    half = 1.96 * VALUES.std() / math.sqrt(len(VALUES))
    assert low == pytest.approx(VALUES.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(VALUES.mean() + half, abs=0.15 * half)


@pytest.mark.slow
def test_it_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(1).exponential(size=(60, 200))
    for level, least, most in ((0.95, 0.84, 0.995), (0.5, 0.33, 0.67)):
        ends = [bootstrap(row, level=level, resamples=60) for row in draws]
        assert least <= np.mean([low <= 1 <= high for low, high in ends]) <= most, level


def test_ends_are_infinite_where_the_median_often_is():
    distance = np.array([0.1, 0.2, 0.3, 0.4, 0.5, math.inf, math.inf, math.inf, math.inf])
    low, high = bootstrap(distance, median)
    assert 0.1 <= low <= 0.4
    assert high == math.inf
    assert bootstrap(np.full(7, math.inf), median) == (math.inf, math.inf)
    low, high = bootstrap(np.array([1.0] * 99 + [math.inf]), median)
    assert (low, high) == (1.0, 1.0)


def test_draws_follow_from_the_seed_and_are_fresh_in_every_resample():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    assert bootstrap(VALUES, seed=1) == bootstrap(VALUES, seed=1) != bootstrap(VALUES, seed=2)
    seen = []
    bootstrap(np.arange(50), lambda part: seen.append(tuple(part)) or 0.0, resamples=20, seed=3)
    assert len(set(seen)) == 20
    assert all(len(part) == 50 and len(set(part)) < 45 for part in seen)
    assert set(range(50)) == {int(value) for part in seen for value in part}
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("values", "option", "says"),
    [
        *((wrong, {}, "values: expected") for wrong in ([], 3.0, [1.0, math.nan])),
        *(([1.0, 2.0], {"level": level}, "level") for level in (0, 1.0, 95)),
        ([1.0, 2.0], {"resamples": 0}, "resamples"),
        ([1.0, 2.0], {"seed": -1}, "seed"),
    ],
)
def test_bootstraps_that_cannot_be(values, option, says):
    refuses(says, bootstrap, values, **option)


@pytest.mark.parametrize("count", [1, 20, 10_000, 50_000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_exact_intervals_are_those_of_the_beta_distribution(count, level):
    """With few samples and with those of a whole test set."""
    right = np.unique([0, 1, count // 100, count // 2, count - count // 20, count - 1, count])
    tail, failed = (1 - level) / 2, count - right
    low = np.where(right > 0, betaincinv(right.clip(1), failed + 1, tail), 0)
    high = np.where(failed > 0, betaincinv(right + 1, failed.clip(1), 1 - tail), 1)
    interval = clopper_pearson(right, count, level=level)
    assert interval.low == pytest.approx(low, abs=1e-10)
    assert interval.high == pytest.approx(high, abs=1e-10)


def test_exact_intervals_keep_the_shape_and_name_bad_input():
    assert clopper_pearson([[1, 2], [2, 0]], 3).low.shape == (2, 2)
    assert clopper_pearson(np.zeros(0, dtype=int), 3).high.shape == (0,)
    for right, count, level in ((4, 3, 0.95), (-1, 3, 0.95), (1.5, 3, 0.95), (0, 0, 0.95), (1, 3, 1.0)):
        refuses("expected", clopper_pearson, right, count, level=level)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (5, 5), (20, 6), (0, 40), (2000, 1800)])
def test_pairs_that_differ_are_split_as_by_a_coin(one, other):
    wanted = binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(wanted) == mcnemar(other, one)
    n = one + other + 100
    values = np.repeat([1.0, -1.0, 0.0], [one, other, 100])
    p, q = (one + 1) / (n + 2), (other + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    assert of_difference(values) == pytest.approx((p - q - half, p - q + half), abs=1e-6)
