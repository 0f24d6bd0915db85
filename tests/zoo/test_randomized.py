"""Randomized models: a search draws as they do, each pass anew, and `eot` averages fresh draws."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.engine import Plain

from . import nets  # noqa: F401
from .judge import eager
from .net import ZOO, Net, lent
from .state import State

RANDOMIZED = lent([net for net in ZOO.values() if net.randomized])
PASSES = 48


@pytest.fixture(autouse=True)
def _seeds(search_copy: None) -> None:
    """Each test draws the same; what is asserted holds for nearly all seeds."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def spread(passes: Tensor) -> float:
    """The standard deviation between passes [N, ...], by the root of its mean square."""
    return float(passes.var(0).mean().sqrt())


def check_alike(searched: Tensor, wanted: Tensor) -> None:
    """Passes [N, ...] of two kinds have equal spreads and means, up to chance."""
    assert 0.6 <= spread(searched) / spread(wanted) <= 1.6
    error = spread(wanted) * (2 / PASSES) ** 0.5
    assert (searched.mean(0) - wanted.mean(0)).square().mean().sqrt() <= 3 * error


def drawn(ask: Callable[[], Tensor]) -> Tensor:
    return torch.stack([ask() for _ in range(PASSES)])


@pytest.mark.slow
@pytest.mark.parametrize("net", RANDOMIZED)
def test_a_search_draws_as_the_model_and_its_expectations_average_fresh_draws(net: Net) -> None:
    """Which leaves the net and x as they were."""
    model, *given = (net.build() for _ in range(3))
    x, y = net.images(4)
    kept, before = x.clone(), [State.of(one, randomness=False) for one in given]
    frozen, four = fa.freeze(given[0]), Plain(given[1], 4)
    with torch.no_grad():
        wanted = drawn(lambda: model(x))
    check_alike(drawn(lambda: frozen(x)), wanted)
    check_alike(drawn(lambda: frozen.verdict(x)), wanted)
    single = drawn(lambda: frozen.input_gradient(x, y)[2])
    check_alike(single, drawn(lambda: eager(model, x, y).gradient))
    means = drawn(lambda: four.input_gradient(x, y)[2])
    assert 0.6 <= 2 * spread(means) / spread(single) <= 1.6  # the mean of four spreads half as much
    assert torch.equal(x, kept)
    for state, one in zip(before, given, strict=True):
        state.check(one)
