"""project_l2 against a bisection, and the closed form without a box."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import INFINITE, few, pair, scales, seeds, solve, widths
from fastadv.ops import project_l2

REAL = [torch.float64, torch.float32]


@pytest.mark.slow
@few
@given(
    seeds, widths, st.sampled_from([0.01, 0.5, 2.0]), scales, st.sampled_from([torch.float64, torch.float32])
)
def test_equals_bisection(seed, cols, radius, scale, dtype):
    x_adv, x = pair(seed, 4, cols, dtype=dtype)
    top = float(torch.tensor(scale, dtype=dtype))
    z = project_l2(x_adv * top, x * top, radius * top, (0.0, top))
    expected = solve(x_adv, x, "l2", radius, (0.0, 1.0))
    unit = 1e-12 if dtype == torch.float64 else 4e-7
    assert torch.allclose(z.double() / top, expected, rtol=0, atol=unit)


@few
@given(seeds, widths)
def test_closed_form_without_a_box(seed, cols):
    x_adv, x = pair(seed, 4, cols)
    v = x_adv.double() - x.double()
    expected = x + v * (0.5 / v.norm(dim=1, keepdim=True)).clamp_max(1.0)
    assert torch.allclose(project_l2(x_adv, x, 0.5, INFINITE).double(), expected, rtol=0, atol=2e-7)
