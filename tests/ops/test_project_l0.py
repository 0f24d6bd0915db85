"""project_l0 against every choice of coordinates, and its ties."""

from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import few, pair, seeds
from fastadv.ops import project_l0


@few
@given(seeds, st.integers(0, 5), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_equals_trying_every_choice(seed, radius, dtype):
    x_adv, x = pair(seed, 1, 5, dtype=dtype)

    def apart(z):
        return float((z.double() - x_adv.double()).square().sum())

    masks = (torch.tensor([[i in kept for i in range(5)]]) for kept in combinations(range(5), radius))
    best = min(apart(torch.where(mask, x_adv.clamp(0, 1), x)) for mask in masks)
    assert apart(project_l0(x_adv, x, radius)) == best


def test_ties_go_to_the_lower_index():
    x = torch.zeros(1, 40)
    for kept in range(41):
        expected = (torch.arange(40) < kept).float()[None] / 2
        assert torch.equal(project_l0(x + 0.5, x, kept), expected)


def test_a_fractional_radius_rounds_down():
    x_adv, x = pair(1, 3, 20)
    assert torch.equal(project_l0(x_adv, x, 2.9), project_l0(x_adv, x, 2))
