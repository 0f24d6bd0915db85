"""quantize_in_ball: 8-bit images come back as they are, and points of the grid stay in the ball."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import ORDER, PROJECT, assert_inside, norm, pair, seeds, widths
from fastadv.ops import linf_step, quantize_in_ball
from tests.refusals import refuses

kinds = st.sampled_from(list(ORDER))
LEVELS = torch.arange(256, dtype=torch.float32)[None] / 255


def grid_pair(seed, cols, rows=3, spread=0.1):
    x_adv, x = pair(seed, rows, cols, spread=spread)
    return x_adv.clamp(0, 1), (x * 255).round() / 255


def inside(x_adv, x, kind, radius):
    """The point of the ball that x_adv stands for."""
    return linf_step(x_adv, x_adv, x, radius, 0.0) if kind == "linf" else PROJECT[kind](x_adv, x, radius)


@pytest.mark.parametrize("kind", ORDER)
@pytest.mark.parametrize("radius", [0.0, 0.1, float("inf")])
def test_all_256_levels_are_fixed(kind, radius):
    assert torch.equal(quantize_in_ball(LEVELS, LEVELS, kind, radius), LEVELS)


@given(kinds, seeds, widths, st.sampled_from([0.0, 0.004, 0.03, 0.5, 3.0, float("inf")]))
def test_on_the_grid_and_in_the_ball(kind, seed, cols, radius):
    x_adv, x = grid_pair(seed, cols)
    z = quantize_in_ball(inside(x_adv, x, kind, radius), x, kind, radius)
    assert torch.equal((z * 255).round().to(torch.uint8).float() / 255, z)
    assert_inside(z, x, kind, radius)


@given(seeds, widths, st.sampled_from([8 / 255, 0.05, 2 / 255]))
def test_linf_takes_the_nearest_level_inside(seed, cols, radius):
    x_adv, x = grid_pair(seed, cols)
    x_adv = torch.minimum(torch.maximum(x_adv, x - radius), x + radius).clamp(0, 1)
    z = quantize_in_ball(x_adv, x, "linf", radius)
    inside = (LEVELS.double() - x.double()[:, :, None]).abs() <= radius
    gap = torch.where(inside, (LEVELS.double() - x_adv.double()[:, :, None]).abs(), float("inf")).amin(2)
    assert torch.allclose((z.double() - x_adv.double()).abs(), gap, rtol=0, atol=1e-7)


@given(st.sampled_from(["l2", "l1"]), seeds, st.sampled_from([64, 300]))
def test_uses_what_the_ball_leaves(kind, seed, cols):
    x_adv, x = grid_pair(seed, cols)
    limit = norm(x_adv, x, kind)
    z = quantize_in_ball(x_adv, x, kind, limit)
    inward = torch.where(x_adv >= x, (x_adv * 255).floor(), (x_adv * 255).ceil()) / 255
    assert_inside(z, x, kind, limit)
    assert bool((norm(z, x, kind) > norm(inward, x, kind)).all()), "all inward is not the best"


def test_refusals():
    x = torch.rand(2, 3)
    refuses("x: expected", quantize_in_ball, x, x[:1], "l2", 1.0)
    refuses("norm: expected one of", quantize_in_ball, x, x, "l7", 1.0)
    refuses("levels: expected an integer >= 1", quantize_in_ball, x, x, "l2", 1.0, levels=0)
    refuses("box: expected a finite one", quantize_in_ball, x, x, "l2", 1.0, (0.0, float("inf")))
