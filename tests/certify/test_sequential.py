"""The sequential test: its true error by dynamic programming, and what it decides."""

import itertools
import math

import numpy as np
import pytest

from fastadv.certify.sequential import decided, log_ratio, lower_bound, schedule


def binomial(count: int, p: float) -> np.ndarray:
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(p) + (count - k) * math.log1p(-p) for k in range(count + 1)
    ]  # fmt: skip
    return np.exp(logs)


def errors(needed: float, p: float, alpha: float, looks: tuple[int, ...]) -> tuple[float, float]:
    """Return how often the test ever says yes, and no, exactly, where p is the probability of a hit."""
    going, before = np.ones(1), 0
    yes = no = 0.0
    for look in looks:
        going, before = np.convolve(going, binomial(look - before, p)), look
        answers = decided(np.arange(look + 1), look, needed, alpha)
        yes, no = yes + going[answers > 0].sum(), no + going[answers < 0].sum()
        going[answers != 0] = 0
    return yes, no


@pytest.mark.slow
@pytest.mark.parametrize("needed", [0.5, 0.841, 0.99])
@pytest.mark.parametrize("alpha", [1e-3, 0.05])
def test_the_true_error_is_at_most_alpha(needed: float, alpha: float) -> None:
    yes, no = errors(needed, needed, alpha, schedule(3000))
    assert 0.01 * alpha < yes <= alpha  # a class that just lacks the probability
    assert 0.01 * alpha < no <= alpha
    wider = tuple(range(1, 400))  # and however often one looks
    assert max(errors(needed, needed, alpha, wider)) <= alpha


def test_answers_are_those_of_the_mixture_over_the_likelihood() -> None:
    for look in (1, 7, 16, 100, 150):
        for needed in (0.5, 0.8, 0.97):
            answers = decided(np.arange(look + 1), look, needed, 0.01)
            for k in range(look + 1):
                mixture = math.gamma(k + 0.5) / math.gamma(0.5) * math.exp(
                    math.lgamma(look - k + 0.5) - math.lgamma(0.5) - math.lgamma(look + 1)
                )  # fmt: skip
                ratio = mixture / (needed**k * (1 - needed) ** (look - k))
                assert answers[k] == (0 if ratio < 100 else 1 if k > look * needed else -1)


def test_lower_bound_is_the_largest_probability_that_is_refused() -> None:
    for hits, draws in ((16, 16), (90, 100), (50, 100), (99_990, 100_000)):
        low = lower_bound(hits, draws, 1e-3)
        assert low < hits / draws
        assert (
            log_ratio(hits, draws, low * (1 + 1e-9))
            <= -math.log(1e-3) + 1e-5
            <= log_ratio(hits, draws, low) + 2e-5
        )
        # the same question, asked of a probability
        assert decided(hits, draws, low * 0.999, 1e-3) == 1
        assert decided(hits, draws, min(low * 1.001, 0.999999), 1e-3) < 1
    assert lower_bound(0, 10, 0.01) == 0
    assert lower_bound(1000, 1000, 1e-3) > lower_bound(990, 1000, 1e-3) > lower_bound(99, 100, 1e-3)


def test_the_schedule_ends_at_n_and_grows_by_a_quarter() -> None:
    assert schedule(5) == (5,)
    looks = schedule(100_000)
    assert (looks[0], looks[-1]) == (16, 100_000)
    assert len(looks) < 50
    assert all(a < b <= math.ceil(1.25 * a) for a, b in itertools.pairwise(looks))
