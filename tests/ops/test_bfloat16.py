"""bfloat16 where values lie halfway between two neighbors, and where coarse values tie."""

import pytest
import torch

from fastadv import ops

HALF = 2.0**-8  # half the distance of neighbors in [1, 2)
BOX = (-8.0, 8.0)


def neighbors():
    """Every bfloat16 value between 1 and 2, and the same with a minus: one a row."""
    x = 1 + torch.arange(1, 128)[:, None] / 128
    return torch.cat([x, -x]).to(torch.bfloat16)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_linf_step_rounds_halves_to_even(sign):
    x = neighbors()
    z = ops.linf_step(x, torch.full_like(x, sign), x, float("inf"), HALF, BOX)
    expected = (x.double() + sign * HALF).to(torch.bfloat16)  # to the nearest, halves to even
    assert torch.equal(z, expected)
    assert {float(step) for step in (z.double() - x.double()).abs().flatten()} == {0.0, 2 * HALF}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("step", [ops.linf_step, ops.l2_step, ops.l1_step])
def test_a_radius_of_half_a_neighbor_reaches_none(step, sign):
    """Rounding to the nearest would leave the ball for every second x."""
    x = neighbors()
    assert torch.equal(step(x, torch.full_like(x, sign), x, HALF, 1.0, BOX), x)
    whole = step(x, torch.full_like(x, sign), x, 2 * HALF, 1.0, BOX)
    assert torch.equal(whole.double(), x.double() + sign * 2 * HALF)


@pytest.mark.parametrize("project", [ops.project_l2, ops.project_l1])
def test_projections_round_halves_towards_x(project):
    x = neighbors()
    assert torch.equal(project(x + torch.sign(x), x, HALF, BOX), x)
    assert torch.equal(project(x + torch.sign(x), x, 3 * HALF, BOX), x + torch.sign(x) * 2 * HALF)
