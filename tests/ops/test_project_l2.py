"""project_l2 against a bisection, the closed form without a box, and a general-purpose optimizer."""

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import INFINITE, few, pair, scales, seeds, solve, widths
from fastadv.ops import project_l2


@pytest.mark.slow
@few
@given(seeds, widths, st.sampled_from([0.01, 0.5, 2.0]), scales)
def test_equals_bisection(seed, cols, radius, scale):
    x_adv, x = pair(seed, 4, cols, dtype=torch.float64)
    z = project_l2(x_adv * scale, x * scale, radius * scale, (0.0, scale))
    expected = solve(x_adv, x, "l2", radius, (0.0, 1.0)) * scale
    assert torch.allclose(z, expected, rtol=0, atol=1e-12 * scale)


@few
@given(seeds, widths)
def test_closed_form_without_a_box(seed, cols):
    x_adv, x = pair(seed, 4, cols)
    v = x_adv.double() - x.double()
    expected = x + v * (0.5 / v.norm(dim=1, keepdim=True)).clamp_max(1.0)
    assert torch.allclose(project_l2(x_adv, x, 0.5, INFINITE).double(), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_general_optimizer(seed):
    x_adv, x = pair(seed, 1, 4, dtype=torch.float64)
    u, c = x_adv[0].numpy(), x[0].numpy()
    ball = {"type": "ineq", "fun": lambda z: 0.4**2 - np.sum((z - c) ** 2)}
    best = scipy.optimize.minimize(
        lambda z: np.sum((z - u) ** 2),
        c,
        jac=lambda z: 2 * (z - u),
        bounds=[(0, 1)] * 4,
        constraints=[ball],
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert np.allclose(project_l2(x_adv, x, 0.4)[0].numpy(), best.x, atol=1e-6)


def test_rescaling_then_clamping_is_no_projection():
    x, x_adv = torch.tensor([[0.5, 0.0]]), torch.tensor([[1.5, -1.0]])
    # rescaling to the ball first would stop at 0.5 + 0.5 / sqrt 2
    assert torch.equal(project_l2(x_adv, x, 0.5), torch.tensor([[1.0, 0.0]]))
