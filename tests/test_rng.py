"""rng: the laws of its draws, and what they may depend on."""

import random

import numpy as np
import pytest
import scipy.stats
import torch

from fastadv import rng
from tests.refusals import refuses

IDS = torch.arange(500)


@pytest.mark.parametrize("draw", [rng.bits, rng.uniform, rng.normal, rng.signs])
def test_rows_depend_on_seed_id_and_draw_alone(draw):
    before, rows = torch.get_rng_state(), draw(37, 5, IDS, 2)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))[:7]
    assert torch.equal(draw(37, 5, IDS[order], 2), rows[order])
    assert torch.equal(draw(12, 5, IDS, 2), rows[:, :12])
    assert not torch.equal(draw(37, 6, IDS, 2), rows)
    assert not torch.equal(draw(37, 5, IDS, 3), rows)
    assert len({tuple(row.tolist()) for row in rows}) == 500
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [None, 0, 2**62 + 5])
def test_generators_are_restored_and_set_by_the_seed(seed):
    def drawn():
        return random.random(), np.random.rand(), float(torch.rand(()))

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    inside = []
    for each in (seed, seed, seed and seed + 1):
        with rng.generators_kept(torch.device("cpu"), each):
            inside.append(drawn())
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert inside[0] == inside[1]
    assert seed is not None or inside[0] == drawn()
    assert not seed or all(one != other for one, other in zip(*inside[1:], strict=True))


def test_laws():
    assert scipy.stats.kstest(rng.uniform(200, 1, IDS).flatten().numpy(), "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(rng.normal(200, 1, IDS).flatten().numpy(), "norm").pvalue > 1e-4
    signs = rng.signs(200, 1, IDS)
    assert (signs.abs() == 1).all()
    assert abs(float(signs.mean())) < 5 / signs.numel() ** 0.5
    words = rng.bits(200, 1, IDS)
    assert int(words.min()) >= 0
    assert int(words.max()) < 2**32
    ones = torch.stack([(words >> place & 1).double().mean() for place in range(32)])
    assert float((ones - 0.5).abs().max()) < 5 * 0.5 / words.numel() ** 0.5


@pytest.mark.parametrize("high", [2, 3, 10, 1000, 3 * 2**29, 2**31])
def test_integers_are_unbiased(high):
    values = rng.integers(high, 3, torch.arange(30_000))
    assert values.dtype == torch.int64
    assert int(values.min()) >= 0
    assert int(values.max()) < high
    cells = min(high, 30)
    edges = torch.arange(cells + 1) * high // cells
    counts = torch.histc(torch.bucketize(values, edges[1:], right=True).double(), cells, 0, cells - 1)
    expected = (edges.diff() * (30_000 / high)).double().numpy()
    assert scipy.stats.chisquare(counts.numpy(), expected, sum_check=False).pvalue > 1e-4


def test_integers_equal_the_exact_remainder():
    ids = torch.arange(50)
    assert rng.integers(1, 9, ids).tolist() == [0] * 50
    for high in (7, 1000, 2**31 - 1, 2**31):
        words = rng.bits(2, 9, ids)
        exact = [(((a >> 1) << 31) + (b >> 1)) % high for a, b in words.tolist()]
        assert rng.integers(high, 9, ids).tolist() == exact


@pytest.mark.parametrize("n", [0, 1, 2, 100, 70_000])
def test_permutation_is_one(n):
    before, order = torch.get_rng_state(), rng.permutation(n, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(rng.permutation(n, 4), order)


@pytest.mark.slow
def test_permutations_are_uniform():
    seen = torch.stack([rng.permutation(4, seed) for seed in range(4000)])
    counts = torch.unique(seen @ torch.tensor([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert not torch.equal(rng.permutation(100, 0, 0), rng.permutation(100, 0, 1))


@pytest.mark.slow
def test_seeds_for_purposes_are_all_different():
    """Also where only the number of counters differs, or a value wanders from one argument to the next."""
    counters = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (10,), (2**40,)]
    seeds, purposes = (0, 1, 2**32, 2**63 - 1), "ab1"
    keys = [(seed, purpose, *rest) for seed in seeds for purpose in purposes for rest in counters]
    keys += [(0, "ab"), (0, "a", 10, 0)]
    derived = [rng.derive(*key) for key in keys]
    assert len(set(derived)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in derived)
    many = torch.tensor([[rng.derive(0, "p", i) >> place & 1 for place in range(63)] for i in range(2000)])
    assert float((many.double().mean(0) - 0.5).abs().max()) < 5 * 0.5 / 2000**0.5


SEEDS = [-1, 2**63, None, 1.0, "1", True]
DRAWS = [rng.bits, rng.uniform, rng.normal]


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_out_of_range_are_refused(seed):
    calls = [lambda draw=draw: draw(3, seed, IDS) for draw in DRAWS]
    calls += [
        lambda: rng.integers(3, seed, IDS),
        lambda: rng.permutation(3, seed),
        lambda: rng.permutation(0, seed),
    ]
    calls += [lambda: rng.derive(seed, "p")]
    for call in calls:
        refuses("seed: expected an integer from 0 to 2\\^63 - 1", call)
    refuses("counters: expected an integer from 0", rng.derive, 0, "p", seed)


def test_refusals():
    for high in (0, -1, 2**31 + 1, 2.0, None, True):
        refuses("high: expected an integer from 1 to", rng.integers, high, 0, IDS)
    for ids in (IDS.float(), IDS.int(), IDS[None], [0, 1], None):
        refuses("ids: expected", rng.uniform, 3, 0, ids)
    for draw in DRAWS:
        for count in (-1, 1.0, None):
            refuses("count: expected an integer", draw, count, 0, IDS)
        for number in (-1, 2**32, 0.0, None):
            refuses("draw: expected an integer", draw, 3, 0, IDS, number)
    refuses("n: expected an integer", rng.permutation, -1, 0)
    refuses("purpose: expected a string", rng.derive, 0, 3)
