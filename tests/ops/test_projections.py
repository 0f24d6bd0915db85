"""What every projection guarantees: the nearest feasible point, and fixed points."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import (
    INFINITE,
    PROJECT,
    assert_inside,
    assert_refused,
    dtypes,
    few,
    norm,
    pair,
    radii,
    scales,
    seeds,
    solve,
    widths,
)

kinds = st.sampled_from(list(PROJECT))


@few
@given(kinds, seeds, widths, radii, dtypes)
def test_inside_and_idempotent(kind, seed, cols, radius, dtype):
    x_adv, x = pair(seed, 3, cols, dtype=dtype)
    z = PROJECT[kind](x_adv, x, radius)
    assert_inside(z, x, kind, radius)
    assert torch.equal(PROJECT[kind](z, x, radius), z)


@few
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


@few
@given(kinds, seeds, widths, dtypes)
def test_inside_points_stay(kind, seed, cols, dtype):
    x_adv, x = pair(seed, 3, cols, dtype=dtype, spread=0.1)
    x_adv = x_adv.clamp(0, 1)
    for radius in (norm(x_adv, x, kind), norm(x_adv, x, kind) * 1.5, float("inf")):
        assert torch.equal(PROJECT[kind](x_adv, x, radius), x_adv)


@pytest.mark.slow
@few
@given(
    st.sampled_from(["l2", "l1"]), seeds, widths, st.sampled_from([0.01, 0.5, 4.0]), scales,
    st.sampled_from([torch.float64, torch.float32]),
)  # fmt: skip
def test_equals_bisection(kind, seed, cols, radius, scale, dtype):
    x_adv, x = pair(seed, 4, cols, dtype=dtype)
    top = float(torch.tensor(scale, dtype=dtype))
    z = PROJECT[kind](x_adv * top, x * top, radius * top, (0.0, top))
    expected = solve(x_adv, x, kind, radius, (0.0, 1.0))
    unit = 1e-12 if dtype == torch.float64 else 4e-7
    assert torch.allclose(z.double() / top, expected, rtol=0, atol=unit)


@pytest.mark.parametrize("kind", PROJECT)
@pytest.mark.parametrize("shape", [(1, 150_528), (500, 784)])
def test_one_long_row_and_many_short_ones(kind, shape):
    x_adv, x = pair(0, *shape, spread=0.2)
    radius = 4.0
    z = PROJECT[kind](x_adv, x, radius)
    assert_inside(z, x, kind, radius)
    assert float((norm(z, x, kind) / radius).min()) > 0.99


@pytest.mark.parametrize("cols", [2, 80])
@pytest.mark.parametrize("radius", [0.2, 0.3])
def test_a_subnormal_value_stays_a_number(radius, cols):
    """x plus the shift rounds to zero, whose neighbor towards x is the smallest number, not NaN."""
    x, x_adv = torch.full((1, cols), 2.0**-149), torch.zeros(1, cols)
    x[0, -1], x_adv[0, -1] = 0.5, 0.9
    z = PROJECT["l2"](x_adv, x, radius)
    assert_inside(z, x, "l2", radius)
    assert float(z[0, -1]) == pytest.approx(0.5 + radius)


@pytest.mark.parametrize("kind", PROJECT)
def test_nan_is_not_hidden(kind):
    x_adv, x = pair(4, 3, 20)
    x_adv[1, 3] = float("nan")
    assert PROJECT[kind](x_adv, x, 1.0).isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", PROJECT)
def test_refusals(kind):
    x_adv, x = pair(5, 2, 6)
    project = PROJECT[kind]
    assert_refused(
        (lambda: project(x_adv, x[:, :5], 1.0), "like the first argument"),
        (lambda: project(x_adv.long(), x.long(), 1.0), "floating batch"),
        (lambda: project(x_adv, x, -0.1), "radius: expected a number >= 0"),
        (lambda: project(x_adv, x, torch.tensor([0.1, -1.0])), "radius: expected values >= 0"),
        (lambda: project(x_adv, x, 1.0, (1.0, 0.0)), "box: expected"),
    )
    assert project(x_adv, x, 1.0, INFINITE).shape == x.shape
