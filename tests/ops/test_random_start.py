"""random_start: the laws of a uniform draw from each ball, and what the draw may depend on."""

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import INFINITE, ORDER, assert_inside, dtypes, pair, seeds, widths
from fastadv.ops import random_start
from tests.refusals import refuses


def shifts(kind, rows, cols, radius):
    x = torch.zeros(rows, cols, dtype=torch.float32)
    return random_start(x, torch.arange(rows), kind, radius, INFINITE).double()


@given(st.sampled_from(list(ORDER)), seeds, widths, st.sampled_from([0.0, 1e-3, 0.5, 2.0, 30.0]), dtypes)
def test_inside(kind, seed, cols, radius, dtype):
    _, x = pair(seed, 3, cols, dtype=dtype)
    assert_inside(random_start(x, torch.arange(3), kind, radius, seed=seed), x, kind, radius)


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
@pytest.mark.parametrize("cols", [1, 2, 3, 10])
def test_radius_law(kind, cols):
    """(norm / radius)^D is uniform, so the mean of norm / radius is D / (D + 1)."""
    rows = 20_000
    size = torch.linalg.vector_norm(shifts(kind, rows, cols, 2.0), ORDER[kind], dim=1) / 2.0
    assert (
        abs(float(size.mean()) - cols / (cols + 1)) < 5 * (cols / (cols + 2)) ** 0.5 / (cols + 1) / rows**0.5
    )
    assert scipy.stats.kstest((size**cols).numpy(), "uniform").pvalue > 1e-4


def test_l0_draws_whole_sets_evenly():
    x = torch.full((20_000, 5), -1.0)
    z = random_start(x, torch.arange(len(x)), "l0", 2.7)
    drawn = z != x.clamp(0, 1)
    assert bool((drawn.sum(1) == 2).all())
    counts = torch.unique(drawn.long() @ (2 ** torch.arange(5)), return_counts=True)[1]
    assert len(counts) == 10
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert scipy.stats.kstest(z[drawn].double().numpy(), "uniform").pvalue > 1e-4


def test_refusals():
    x, ids = torch.rand(3, 4), torch.arange(3)
    refuses("norm: expected one of linf", random_start, x, ids, "l3", 1.0)
    refuses("radius: expected a finite one", random_start, x, ids, "l2", float("inf"))
    refuses("seed: expected an integer from 0", random_start, x, ids, "l2", 1.0, seed=-1)
    refuses("box: expected a finite one", random_start, x, ids, "l0", 1.0, INFINITE)
    refuses("expected a finite one", random_start, x, ids, "l2", torch.tensor([1.0, 1.0, torch.inf]))
