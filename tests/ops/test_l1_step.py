"""l1_step: the ascent against a linear program and a plain loop, the projection against a bisection."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import INFINITE, dtypes, few, seeds, solve, step_batch, widths
from fastadv.ops import l1_step, project_l1

LENGTHS = st.sampled_from([0.01, 0.3, 1.7, 20.0])


def ascended(x_adv, grad, step_size, box=(0.0, 1.0)):
    """The moved point, coordinate by coordinate, before any projection."""
    out = x_adv.double().clone()
    for row in range(len(out)):
        left = float(step_size)
        for i in np.lexsort((np.arange(grad.shape[1]), -grad[row].double().abs().numpy())):
            edge = box[1] if grad[row, i] > 0 else box[0]
            taken = min(abs(edge - float(out[row, i])), left) * float(grad[row, i] != 0)
            out[row, i] += taken * float(grad[row, i].sign())
            left -= taken
    return out


@pytest.mark.slow
@few
@given(seeds, widths, LENGTHS, dtypes)
def test_equals_the_greedy_loop(seed, cols, step_size, dtype):
    x_adv, grad, x = step_batch(seed, cols, dtype, spread=0.1)
    z = l1_step(x_adv, grad, x, float("inf"), step_size)
    unit = {torch.float64: 1e-12, torch.float32: 2e-7, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert torch.allclose(z.double(), ascended(x_adv, grad, step_size), rtol=0, atol=unit)


@pytest.mark.slow
@few
@given(seeds, widths, LENGTHS, st.sampled_from([0.05, 0.6, 3.0]))
def test_the_moved_point_is_projected(seed, cols, step_size, radius):
    x_adv, grad, x = step_batch(seed, cols, spread=0.1)
    x_adv = project_l1(x_adv, x, radius)
    z = l1_step(x_adv, grad, x, radius, step_size)
    expected = solve(ascended(x_adv, grad, step_size), x, "l1", radius, (0.0, 1.0))
    assert torch.allclose(z.double(), expected, rtol=0, atol=4e-7)


def test_a_rounding_hair_of_room_does_not_swallow_the_step():
    below = torch.nextafter(torch.ones(1), torch.zeros(1)).item()
    x = torch.tensor([[0.5, 0.5, 0.5]])
    x_adv = torch.tensor([[below, 0.5, 0.5]])
    grad = torch.tensor([[5.0, -4.0, 1.0]])
    z = l1_step(x_adv, grad, x, float("inf"), 0.75)
    assert torch.allclose(z, torch.tensor([[1.0, 0.0, 0.75]]), rtol=0, atol=1e-6)


def test_what_one_coordinate_cannot_take_goes_to_the_next():
    x = torch.full((1, 4), 0.5)
    grad = torch.tensor([[1.0, -3.0, 0.0, 2.0]])
    assert torch.equal(l1_step(x, grad, x, 9.0, 0.75), torch.tensor([[0.5, 0.0, 0.5, 0.75]]))
    assert torch.equal(l1_step(x, grad, x, 9.0, 50.0), torch.tensor([[1.0, 0.0, 0.5, 1.0]]))
    assert torch.equal(l1_step(x, grad, x, 99.0, 50.0, INFINITE), torch.tensor([[0.5, -49.5, 0.5, 0.5]]))


@pytest.mark.parametrize(("step_size", "filled"), [(0.25, 0), (0.75, 1), (7.25, 14)])
def test_ties_go_to_the_lower_index(step_size, filled):
    x = torch.full((1, 40), 0.5)
    grad = torch.ones(1, 40)
    grad[0, :7] = 0.5
    expected = x.clone()
    expected[0, 7 : 7 + filled] = 1.0
    expected[0, 7 + filled] = 0.75
    assert torch.equal(l1_step(x, grad, x, 20.0, step_size), expected)


def test_the_order_of_elements_rules_ties_in_any_layout():
    x = torch.full((2, 3, 4, 4), 0.5)
    grad = torch.ones_like(x)
    last = l1_step(*(t.contiguous(memory_format=torch.channels_last) for t in (x, grad, x)), 1.0, 0.25)
    assert torch.equal(last, l1_step(x, grad, x, 1.0, 0.25))
    assert float(last[0, 0, 0, 0]) == 0.75
