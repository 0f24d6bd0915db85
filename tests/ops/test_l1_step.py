"""l1_step: which coordinate moves."""

import torch

from fastadv.ops import l1_step


def test_a_coordinate_at_the_box_passes_the_step_on():
    x = torch.tensor([[1.0, 0.0, 0.5]])
    grad = torch.tensor([[5.0, -4.0, 1.0]])  # the two largest point out of the box
    assert torch.equal(l1_step(x, grad, x, 1.0, 0.25), torch.tensor([[1.0, 0.0, 0.75]]))


def test_ties_go_to_the_lower_index():
    x = torch.full((1, 40), 0.5)
    grad = torch.ones(1, 40)
    grad[0, :7] = 0.5
    expected = x.clone()
    expected[0, 7] = 0.75
    assert torch.equal(l1_step(x, grad, x, 1.0, 0.25), expected)


def test_the_order_of_elements_rules_ties_in_any_layout():
    x = torch.full((2, 3, 4, 4), 0.5)
    grad = torch.ones_like(x)
    last = l1_step(*(t.contiguous(memory_format=torch.channels_last) for t in (x, grad, x)), 1.0, 0.25)
    assert torch.equal(last, l1_step(x, grad, x, 1.0, 0.25))
    assert float(last[0, 0, 0, 0]) == 0.75


def test_nothing_can_move():
    x = torch.ones(1, 5)
    assert torch.equal(l1_step(x, torch.ones_like(x), x, 1.0, 0.5), x)
