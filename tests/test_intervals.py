"""Bootstrap intervals: coverage, ends that may be infinite, and draws that follow from the seed alone."""

import math
import sys

import numpy as np
import pytest
import torch

from fastadv.errors import InputError
from fastadv.intervals import bootstrap, mean, median

VALUES = np.random.default_rng(0).normal(5.0, 2.0, 400)


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem():
    low, high = bootstrap(VALUES, mean, resamples=2000)
    half = 1.96 * VALUES.std() / math.sqrt(len(VALUES))
    assert low == pytest.approx(VALUES.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(VALUES.mean() + half, abs=0.15 * half)


def test_the_interval_of_an_accuracy():
    right = np.arange(100) < 30
    low, high = bootstrap(right, resamples=2000)
    # the quantiles of a binomial distribution of 100 draws with p = 0.3
    assert low == pytest.approx(0.21, abs=0.015)
    assert high == pytest.approx(0.39, abs=0.015)
    assert bootstrap(np.ones(5, dtype=bool)) == (1.0, 1.0)


def test_the_interval_of_the_median_of_a_whole_test_set():
    """Of 10,000 values the ends have the ranks 5,000 -+ 1.96 * 50, to the accuracy of 200 resamples."""
    assert bootstrap(np.arange(10_000), median, resamples=200) == pytest.approx((4902, 5098), abs=20)


@pytest.mark.slow
def test_it_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(1).exponential(size=(60, 200))
    for level, least, most in ((0.95, 0.84, 0.995), (0.5, 0.33, 0.67)):
        ends = [bootstrap(row, level=level, resamples=60) for row in draws]
        covered = np.mean([low <= 1 <= high for low, high in ends])
        assert least <= covered <= most, level


def test_ends_are_infinite_where_the_median_often_is():
    distance = np.array([0.1, 0.2, 0.3, 0.4, 0.5, math.inf, math.inf, math.inf, math.inf])
    low, high = bootstrap(distance, median)
    assert 0.1 <= low <= 0.4
    assert high == math.inf
    assert bootstrap(np.full(7, math.inf), median) == (math.inf, math.inf)
    low, high = bootstrap(np.array([1.0] * 99 + [math.inf]), median)
    assert (low, high) == (1.0, 1.0)


@pytest.mark.slow
def test_a_statistic_may_be_an_array():
    rows = np.stack([VALUES, VALUES + 1], 1)
    both = bootstrap(rows, lambda part: part.mean(0))
    assert both.low.shape == both.high.shape == (2,)
    assert both.low == pytest.approx([bootstrap(VALUES).low, bootstrap(VALUES).low + 1])
    assert both.high - both.low == pytest.approx(2 * [bootstrap(VALUES).high - bootstrap(VALUES).low])


def test_more_samples_than_are_drawn_at_once(monkeypatch):
    whole = bootstrap(VALUES, resamples=30)
    for block in (1000, 3):
        monkeypatch.setattr(sys.modules["fastadv.intervals"], "BLOCK", block)
        assert bootstrap(VALUES, resamples=30) == whole


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


@pytest.mark.parametrize("wrong", [[], 3.0, [1.0, math.nan]])
def test_values_that_have_no_interval(wrong):
    with pytest.raises(InputError, match="values: expected"):
        bootstrap(wrong)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"level": 0}, "level"),
        ({"level": 1.0}, "level"),
        ({"level": 95}, "level"),
        ({"resamples": 0}, "resamples"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range(option, says):
    with pytest.raises(InputError, match=says):
        bootstrap([1.0, 2.0], **option)
