"""Randomized models: a search draws as they do, each pass anew, and `eot` averages fresh draws."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

import fastadv as fa

from . import nets  # noqa: F401
from .judge import eager
from .net import ZOO, Net, lent

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
    """Passes [N, ...] of two kinds have equal spreads and means, up to chance.

    Entries may rise and fall together, so that all means may be off by one draw of their error.
    """
    assert 0.6 <= spread(searched) / spread(wanted) <= 1.6
    error = spread(wanted) * (2 / PASSES) ** 0.5
    off = (searched.mean(0) - wanted.mean(0)).square().mean().sqrt()
    assert off <= 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("net", RANDOMIZED)
def test_logits_are_drawn_as_the_models(net: Net) -> None:
    model, frozen = net.build(), fa.freeze(net.build())
    x, _ = net.images(4)
    with torch.no_grad():
        own = torch.stack([model(x) for _ in range(PASSES)])
    check_alike(torch.stack([frozen(x) for _ in range(PASSES)]), own)
    check_alike(torch.stack([frozen.verdict(x) for _ in range(PASSES)]), own)


@pytest.mark.slow
@pytest.mark.parametrize("net", RANDOMIZED)
def test_gradients_are_drawn_as_the_models(net: Net) -> None:
    model, frozen = net.build(), fa.freeze(net.build())
    x, y = net.images(4)
    own = torch.stack([eager(model, x, y).gradient for _ in range(PASSES)])
    check_alike(torch.stack([frozen.input_gradient(x, y)[2] for _ in range(PASSES)]), own)


@pytest.mark.slow
@pytest.mark.parametrize("net", RANDOMIZED)
def test_expectations_average_fresh_draws(net: Net) -> None:
    """The mean of four spreads half as much as one."""
    x, y = net.images(4)
    one, four = fa.freeze(net.build()), fa.freeze(net.build(), eot=4)
    single = torch.stack([one.input_gradient(x, y)[2] for _ in range(PASSES)])
    means = torch.stack([four.input_gradient(x, y)[2] for _ in range(PASSES)])
    assert 0.6 <= 2 * spread(means) / spread(single) <= 1.6
