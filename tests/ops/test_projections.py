"""What every projection guarantees: the nearest feasible point, and fixed points."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import (
    INFINITE,
    PROJECT,
    STEP,
    assert_inside,
    dtypes,
    norm,
    pair,
    radii,
    scales,
    seeds,
    solve,
    step_batch,
    widths,
)
from tests.refusals import refuses

kinds = st.sampled_from(list(PROJECT))


@given(kinds, seeds, widths, radii, dtypes, st.sampled_from([1.0, 2.8215]))  # which rounds up, or down
def test_inside_and_idempotent(kind, seed, cols, radius, dtype, top):
    x_adv, x = pair(seed, 3, cols, top, dtype)
    z = PROJECT[kind](x_adv, x, radius, (0.0, top))
    assert_inside(z, x, kind, radius, (0.0, top))
    assert torch.equal(PROJECT[kind](z, x, radius, (0.0, top)), z)


@given(kinds, seeds, widths, scales)
def test_any_scale(kind, seed, cols, scale):
    x_adv, x = pair(seed, 3, cols, scale)
    box = (0.0, float(torch.tensor(scale, dtype=torch.float32)))
    radius = 0.4 * scale if kind != "l0" else 2.0
    z = PROJECT[kind](x_adv, x, radius, box)
    assert_inside(z, x, kind, radius, box)
    if kind != "l0":
        unit = PROJECT[kind](x_adv.double() / scale, x.double() / scale, 0.4, (0.0, box[1] / scale)) * scale
        assert torch.allclose(z.double(), unit, rtol=0, atol=4e-7 * scale)


@given(kinds, seeds, widths, dtypes)
def test_inside_points_stay(kind, seed, cols, dtype):
    x_adv, x = pair(seed, 3, cols, dtype=dtype, spread=0.1)
    x_adv = x_adv.clamp(0, 1)
    for radius in (norm(x_adv, x, kind), norm(x_adv, x, kind) * 1.5, float("inf")):
        assert torch.equal(PROJECT[kind](x_adv, x, radius), x_adv)


@pytest.mark.slow
@given(
    st.sampled_from(["l2", "l1"]), seeds, widths, st.sampled_from([0.01, 0.5, 4.0]), scales,
    st.sampled_from([torch.float64, torch.float32]), st.sampled_from([(0.0, 1.0), INFINITE]),
)  # fmt: skip
def test_equals_bisection(kind, seed, cols, radius, scale, dtype, box):
    x_adv, x = pair(seed, 4, cols, dtype=dtype)
    top = float(torch.tensor(scale, dtype=dtype))
    z = PROJECT[kind](x_adv * top, x * top, radius * top, (top * box[0], top * box[1]))
    expected = solve(x_adv, x, kind, radius, box)
    unit = 1e-12 if dtype == torch.float64 else 4e-7
    assert torch.allclose(z.double() / top, expected, rtol=0, atol=unit)


@pytest.mark.parametrize("move", [*PROJECT.values(), *STEP.values()])
def test_nan_is_not_hidden(move):
    x_adv, grad, x = step_batch(4, 20)
    x_adv[1, 3] = float("nan")
    out = move(x_adv, x, 1.0) if move in PROJECT.values() else move(x_adv, grad, x, 1.0, 0.1)
    assert out.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", PROJECT)
def test_refusals(kind):
    x_adv, x = pair(5, 2, 6)
    project = PROJECT[kind]
    refuses("like the first argument", project, x_adv, x[:, :5], 1.0)
    refuses("floating batch", project, x_adv.long(), x.long(), 1.0)
    refuses("radius: expected a number >= 0", project, x_adv, x, -0.1)
    refuses("radius: expected values >= 0", project, x_adv, x, torch.tensor([0.1, -1.0]))
    refuses("box: expected", project, x_adv, x, 1.0, (1.0, 0.0))
    assert project(x_adv, x, 1.0, INFINITE).shape == x.shape


@given(seeds, st.integers(0, 5), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_l0_equals_trying_every_choice(seed, radius, dtype):
    x_adv, x = pair(seed, 1, 5, dtype=dtype)

    def apart(z):
        return float((z.double() - x_adv.double()).square().sum())

    masks = (torch.tensor([[i in kept for i in range(5)]]) for kept in combinations(range(5), radius))
    best = min(apart(torch.where(mask, x_adv.clamp(0, 1), x)) for mask in masks)
    assert apart(PROJECT["l0"](x_adv, x, radius)) == best


def test_l0_ties_go_to_the_lower_index():
    x = torch.zeros(1, 40)
    for kept in range(41):
        assert torch.equal(PROJECT["l0"](x + 0.5, x, kept), (torch.arange(40) < kept).float()[None] / 2)


def test_l0_rounds_a_fractional_radius_down():
    x_adv, x = pair(1, 3, 20)
    assert torch.equal(PROJECT["l0"](x_adv, x, 2.9), PROJECT["l0"](x_adv, x, 2))


@pytest.mark.parametrize("radius", [0.0, 1e-30])
def test_l2_shifts_whose_squares_vanish_in_float(radius):
    x = torch.zeros(1, 64)
    assert float(norm(PROJECT["l2"](x + 1e-25, x, radius), x, "l2")) <= radius
