"""l2_step against the step written out, and a bisection for its projection."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import few, seeds, solve, step_batch, widths
from fastadv.ops import l2_step


@pytest.mark.slow
@few
@given(seeds, widths, st.sampled_from([1e-3, 0.1, 0.5, 5.0]), st.sampled_from([0.01, 1.0, 50.0]))
def test_equals_the_step_written_out(seed, cols, radius, step_size):
    x_adv, grad, x = step_batch(seed, cols, rows=4, spread=0.1)
    moved = x_adv.double() + step_size * grad.double() / grad.double().norm(dim=1, keepdim=True)
    expected = solve(moved, x, "l2", radius, (0.0, 1.0))
    assert torch.allclose(l2_step(x_adv, grad, x, radius, step_size).double(), expected, rtol=0, atol=4e-7)


@pytest.mark.slow
@few
@given(seeds, st.sampled_from([1e-9, 1e-3, 1e4, 1e9]), st.sampled_from([0.05, 0.5]))
def test_any_scale_of_inputs(seed, scale, step_size):
    x_adv, grad, x = step_batch(seed, 64, spread=0.1)
    top = float(torch.tensor(scale, dtype=torch.float32))
    z = l2_step(x_adv * top, grad, x * top, 0.4 * top, step_size * top, (0.0, top))
    expected = l2_step(x_adv.double(), grad.double(), x.double(), 0.4, step_size)
    assert torch.allclose(z.double() / top, expected, rtol=0, atol=5e-7)


def test_uniform_gradient_keeps_the_budget():
    # equal terms round alike, the worst case of a float32 sum
    for value in (0.1, 1 / 3, 0.7):
        x = torch.zeros(1, 3072)
        z = l2_step(x, torch.full_like(x, value), x, value, 10.0)
        assert float((z.double()).norm()) <= value * (1 + 1e-12)
