"""Threat.quantize: 8-bit images come back as they are, and points of the grid stay in the ball."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastadv.threat import L2, THREATS, Linf
from tests.ops.balls import assert_inside, norm, pair, seeds, widths
from tests.refusals import refuses

dtypes = st.sampled_from([torch.float32, torch.float64])
LEVELS = torch.arange(256, dtype=torch.float32)[None] / 255


def grid_pair(seed, cols, dtype=torch.float32, levels=255):
    x_adv, x = pair(seed, 3, cols, spread=0.1, dtype=dtype)
    return x_adv.clamp(0, 1), (x * levels).round() / levels


@given(
    st.sampled_from(list(THREATS)), seeds, widths, dtypes, st.sampled_from([4, 255]),
    st.lists(st.sampled_from([0.0, 0.004, 0.03, 0.5, 3.0, float("inf")]), min_size=3, max_size=3),
)  # fmt: skip
def test_on_the_grid_and_in_the_ball(kind, seed, cols, dtype, levels, radii):
    x_adv, x = grid_pair(seed, cols, dtype, levels)
    threat = THREATS[kind](torch.tensor(radii))
    points = threat.project(x_adv, x)
    z = threat.quantize(points, x, levels)
    assert torch.equal((z * levels).round() / levels, z)
    assert_inside(z, x, kind, threat.radius)
    assert torch.equal(THREATS[kind](radii[1]).quantize(points[1:2], x[1:2], levels), z[1:2]), "stands alone"
    assert torch.equal(threat.quantize(x, x, levels), x)


@given(seeds, widths, st.sampled_from([8 / 255, 0.05, 2 / 255]))
def test_linf_takes_the_nearest_level_inside(seed, cols, radius):
    x_adv, x = grid_pair(seed, cols)
    x_adv = torch.minimum(torch.maximum(x_adv, x - radius), x + radius).clamp(0, 1)
    z = Linf(radius).quantize(x_adv, x)
    inside = (LEVELS.double() - x.double()[:, :, None]).abs() <= radius * (1 + 1e-6)  # as `contains`
    gap = torch.where(inside, (LEVELS.double() - x_adv.double()[:, :, None]).abs(), float("inf")).amin(2)
    assert torch.allclose((z.double() - x_adv.double()).abs(), gap, rtol=0, atol=1e-7)


@given(st.sampled_from(["l2", "l1"]), seeds, st.sampled_from([64, 300]), dtypes)
def test_uses_what_the_ball_leaves(kind, seed, cols, dtype):
    x_adv, x = grid_pair(seed, cols, dtype)
    limit = norm(x_adv, x, kind)
    z = THREATS[kind](limit).quantize(x_adv, x)
    inward = torch.where(x_adv >= x, (x_adv * 255).floor(), (x_adv * 255).ceil()) / 255
    assert_inside(z, x, kind, limit)
    assert bool((norm(z, x, kind) > norm(inward, x, kind)).all()), "all inward is not the best"


@pytest.mark.parametrize("kind", THREATS.values())
@pytest.mark.parametrize("levels", [1, 3, 38, 254])
def test_what_lies_whole_levels_away_stays_by_quantize_as_by_contains(kind, levels):
    grid, far = LEVELS[0], levels / 255
    threat = kind({"linf": far, "l2": 2**0.5 * far, "l1": 2 * far, "l0": 2}[kind.norm])
    for low, high in ((grid[:-levels], grid[levels:]), (grid[levels:], grid[:-levels])):
        x, x_adv = torch.stack([low] * 3, 1), torch.stack([high, high, low], 1)
        kept = threat.contains(x_adv, x)
        assert kept.double().mean() > 0.9
        rows = threat.with_radius(torch.full((len(x),), threat.radius))
        assert torch.equal(rows.quantize(x_adv, x)[kept], x_adv[kept])
        for points in (x_adv, threat.project(x_adv, x)):
            z = threat.quantize(points, x)
            assert torch.equal(z[kept], x_adv[kept])
        assert threat.contains(z, x).all()


def test_refusals():
    x = torch.rand(2, 3)
    refuses("x: expected", L2(1.0).quantize, x, x[:1])
    refuses("levels: expected an integer >= 1", L2(1.0).quantize, x, x, 0)
    refuses("box: expected a finite one", L2(1.0, (0.0, float("inf"))).quantize, x, x)
