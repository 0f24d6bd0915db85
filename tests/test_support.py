"""The support function of each ball in its box: what a linear function can gain."""

from itertools import combinations

import pytest
import torch

import fastadv as fa
from test_threat import KINDS, batch


def supports(norm, weight, x, radius, box):
    """max <weight, z - x> over ball and box for one sample, by bisection or by going through subsets."""
    room = torch.where(weight > 0, box[1] - x, x - box[0])
    size = weight.abs()
    if norm == "linf":
        return (size * room.clamp_max(radius)).sum()
    if norm == "l0":
        sets = combinations(range(len(x)), min(int(radius), len(x)))
        return max((size * room)[list(chosen)].sum() for chosen in sets)
    # the Lagrangian: each coordinate goes as far as its price allows
    low, high = 0.0, float(size.max()) * 1e6 + 1.0
    for _ in range(200):
        price = (low + high) / 2
        away = room * (size > price) if norm == "l1" else (size / price).minimum(room)
        spent = away.sum() if norm == "l1" else away.norm()
        low, high = (price, high) if spent > radius else (low, price)
    away = room * (size > high) if norm == "l1" else (size / high).minimum(room)
    # at the price itself L1 spends what is left on the coordinate that costs as much
    return (size * away).sum() + (low * (radius - away.sum()) if norm == "l1" and low > 0 else 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", [(0.0, 1.0), (-0.5, 2.0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_support_is_what_a_linear_function_gains(kind, box, seed):
    draw = torch.Generator().manual_seed(seed)
    x = box[0] + (box[1] - box[0]) * torch.rand(6, 9, generator=draw, dtype=torch.float64)
    x = torch.where(torch.rand(6, 9, generator=draw) < 0.3, box[0], x)
    weight = torch.randn(6, 9, generator=draw, dtype=torch.float64)
    weight[torch.rand(6, 9, generator=draw) < 0.2] = 0.0
    radius = torch.tensor([0.01, 0.3, 1.2, 2.5, 7.0, 40.0], dtype=torch.float64)
    gained = kind(radius, box).support(weight.view(6, 3, 3), x.view(6, 3, 3))
    assert gained.dtype == torch.float64
    expected = [supports(kind.norm, *row, box) for row in zip(weight, x, radius.tolist(), strict=True)]
    torch.testing.assert_close(gained, torch.stack([torch.as_tensor(e) for e in expected]).double())


@pytest.mark.parametrize("kind", KINDS)
def test_the_support_of_a_free_feature_is_that_of_the_box(kind):
    _, weight, x = batch()
    whole = torch.where(weight > 0, weight * (1 - x), -weight * x).double().flatten(1).sum(1)
    torch.testing.assert_close(kind(float("inf")).support(weight, x), whole)


@pytest.mark.parametrize(("kind", "dual"), [(fa.Linf, 1), (fa.L2, 2), (fa.L1, float("inf"))])
def test_without_a_box_the_support_is_the_dual_norm(kind, dual):
    _, weight, x = batch(torch.float64)
    free = (-float("inf"), float("inf"))
    expected = 0.7 * torch.linalg.vector_norm(weight.flatten(1), dual, dim=1)
    torch.testing.assert_close(kind(0.7, free).support(weight, x), expected)
    assert bool(kind(float("inf"), free).support(weight, x).isinf().all())
    assert not bool(kind(float("inf"), free).support(0 * weight, x).any())
