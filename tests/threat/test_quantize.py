"""Threat.quantize: 8-bit images come back as they are, and points of the grid stay in the ball."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastadv.ops import linf_step
from fastadv.threat.quantize import quantize
from tests.ops.balls import ORDER, PROJECT, assert_inside, norm, pair, seeds, widths
from tests.refusals import refuses

BOX = (0.0, 1.0)
kinds = st.sampled_from(list(ORDER))
dtypes = st.sampled_from([torch.float32, torch.float64])
LEVELS = torch.arange(256, dtype=torch.float32)[None] / 255


def grid_pair(seed, cols, rows=3, spread=0.1, dtype=torch.float32):
    x_adv, x = pair(seed, rows, cols, spread=spread, dtype=dtype)
    return x_adv.clamp(0, 1), (x * 255).round() / 255


def inside(x_adv, x, kind, radius):
    """The point of the ball that x_adv stands for."""
    return linf_step(x_adv, x_adv, x, radius, 0.0) if kind == "linf" else PROJECT[kind](x_adv, x, radius)


@pytest.mark.parametrize("kind", ORDER)
@pytest.mark.parametrize("radius", [0.0, 0.1, float("inf")])
def test_all_256_levels_are_fixed(kind, radius):
    assert torch.equal(quantize(LEVELS, LEVELS, kind, radius, BOX, 255), LEVELS)


@given(kinds, seeds, widths, st.sampled_from([0.0, 0.004, 0.03, 0.5, 3.0, float("inf")]), dtypes)
def test_on_the_grid_and_in_the_ball(kind, seed, cols, radius, dtype):
    x_adv, x = grid_pair(seed, cols, dtype=dtype)
    points = inside(x_adv, x, kind, radius)
    z = quantize(points, x, kind, radius, BOX, 255)
    assert torch.equal((z * 255).round().to(torch.uint8).to(dtype) / 255, z)
    assert_inside(z, x, kind, radius)
    assert torch.equal(quantize(points[1:2], x[1:2], kind, radius, BOX, 255), z[1:2]), "a sample stands alone"


@given(seeds, widths, st.sampled_from([8 / 255, 0.05, 2 / 255]))
def test_linf_takes_the_nearest_level_inside(seed, cols, radius):
    x_adv, x = grid_pair(seed, cols)
    x_adv = torch.minimum(torch.maximum(x_adv, x - radius), x + radius).clamp(0, 1)
    z = quantize(x_adv, x, "linf", radius, BOX, 255)
    inside = (LEVELS.double() - x.double()[:, :, None]).abs() <= radius
    gap = torch.where(inside, (LEVELS.double() - x_adv.double()[:, :, None]).abs(), float("inf")).amin(2)
    assert torch.allclose((z.double() - x_adv.double()).abs(), gap, rtol=0, atol=1e-7)


@given(st.sampled_from(["l2", "l1"]), seeds, st.sampled_from([64, 300]), dtypes)
def test_uses_what_the_ball_leaves(kind, seed, cols, dtype):
    x_adv, x = grid_pair(seed, cols, dtype=dtype)
    limit = norm(x_adv, x, kind)
    z = quantize(x_adv, x, kind, limit, BOX, 255)
    inward = torch.where(x_adv >= x, (x_adv * 255).floor(), (x_adv * 255).ceil()) / 255
    assert_inside(z, x, kind, limit)
    assert bool((norm(z, x, kind) > norm(inward, x, kind)).all()), "all inward is not the best"


def test_refusals():
    x = torch.rand(2, 3)
    refuses("x: expected", quantize, x, x[:1], "l2", 1.0, BOX, 255)
    refuses("norm: expected one of", quantize, x, x, "l7", 1.0, BOX, 255)
    refuses("levels: expected an integer >= 1", quantize, x, x, "l2", 1.0, BOX, 0)
    refuses("box: expected a finite one", quantize, x, x, "l2", 1.0, (0.0, float("inf")), 255)
