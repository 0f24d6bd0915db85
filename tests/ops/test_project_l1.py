"""project_l1 against a bisection, a general optimizer, and by sorting (Duchi et al. 2008) without a box."""

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import INFINITE, few, pair, scales, seeds, solve, widths
from fastadv.ops import project_l1


def by_sorting(v, radius):
    """Duchi et al. 2008, figure 1, on the sizes of v."""
    if np.abs(v).sum() <= radius:
        return v
    size = np.sort(np.abs(v))[::-1]
    excess = size.cumsum() - radius
    last = np.nonzero(size > excess / np.arange(1, len(v) + 1))[0][-1]
    return np.sign(v) * np.maximum(np.abs(v) - excess[last] / (last + 1), 0)


@pytest.mark.slow
@few
@given(seeds, widths, st.sampled_from([0.01, 0.5, 4.0]), scales)
def test_equals_bisection(seed, cols, radius, scale):
    x_adv, x = pair(seed, 4, cols, dtype=torch.float64)
    z = project_l1(x_adv * scale, x * scale, radius * scale, (0.0, scale))
    expected = solve(x_adv, x, "l1", radius, (0.0, 1.0)) * scale
    assert torch.allclose(z, expected, rtol=0, atol=1e-12 * scale)


@few
@given(seeds, widths, st.sampled_from([0.3, 2.0]))
def test_closed_form_without_a_box(seed, cols, radius):
    x_adv, x = pair(seed, 4, cols)
    v = (x_adv.double() - x.double()).numpy()
    expected = x.double() + torch.from_numpy(np.stack([by_sorting(row, radius) for row in v]))
    # rounded towards x, so off by less than a unit in the last place
    unit = torch.from_numpy(np.spacing(expected.float().abs().numpy())).double()
    assert ((project_l1(x_adv, x, radius, INFINITE).double() - expected).abs() <= unit + 1e-12).all()


@pytest.mark.slow
@few
@given(seeds, widths, st.sampled_from([0.01, 0.5, 4.0]))
def test_kernel_equals_bisection_with_a_box(seed, cols, radius):
    x_adv, x = pair(seed, 4, cols)
    assert torch.allclose(
        project_l1(x_adv, x, radius).double(), solve(x_adv, x, "l1", radius, (0.0, 1.0)), rtol=0, atol=2e-7
    )


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_general_optimizer(seed):
    x_adv, x = pair(seed, 1, 3, dtype=torch.float64)
    u, c = x_adv[0].numpy(), x[0].numpy()
    # z = c + p - q with p, q >= 0 makes the L1 norm linear
    best = scipy.optimize.minimize(
        lambda w: np.sum((c + w[:3] - w[3:] - u) ** 2),
        np.zeros(6),
        bounds=[(0, 1 - a) for a in c] + [(0, a) for a in c],
        constraints=[{"type": "ineq", "fun": lambda w: 0.4 - w.sum()}],
        method="SLSQP",
        options={"ftol": 1e-15},
    )
    assert np.allclose(project_l1(x_adv, x, 0.4)[0].numpy(), c + best.x[:3] - best.x[3:], atol=1e-5)


def test_soft_threshold_not_rescaling():
    x = torch.zeros(1, 3)
    assert torch.equal(
        project_l1(torch.tensor([[3.0, 1.0, 0.5]]), x, 1.0, INFINITE), torch.tensor([[1.0, 0.0, 0.0]])
    )


def test_a_room_met_passes_the_budget_on():
    x, x_adv = torch.tensor([[0.75, 0.0, 0.0]]), torch.tensor([[3.0, 0.75, 0.25]])
    # the first coordinate can only use 0.25 of the budget; the others share the rest
    assert torch.allclose(project_l1(x_adv, x, 1.0), torch.tensor([[1.0, 0.625, 0.125]]))
