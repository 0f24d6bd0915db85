"""bfloat16 where values lie halfway between two neighbors, and where coarse values tie."""

import pytest
import torch

from fastadv import ops
from fastadv.ops.logit_loss import KINDS
from test_logit_loss import written_out

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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targeted", [False, True])
def test_logit_loss_settles_ties_by_the_lower_index(kind, targeted):
    """Logits of few values: the largest others, and the order statistics of dlr, tie in most rows."""
    draw = torch.Generator().manual_seed(7)
    z = (torch.randint(0, 3, (60, 7), generator=draw) / 2).to(torch.bfloat16)
    y = torch.randint(7, (60,), generator=draw)
    t = (y + 1 + torch.randint(6, (60,), generator=draw)) % 7 if targeted else None
    # a shift far below the values' distance turns every tie into an order that prefers the lower index
    leaf = (z.double() - 1e-12 * torch.arange(7)).requires_grad_()
    expected = written_out(leaf, y, kind, t)
    top = z.double().sort(dim=1, descending=True).values
    usable = top[:, 0] > top[:, 2]  # elsewhere dlr's width is nothing but the shift
    if kind == "cw":  # at the hinge the gradient is zero on one side of the shift only
        usable &= (expected.detach() < -1e-6) | (expected.detach() == 0)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    loss, grad = ops.logit_loss(z, y, kind, t)
    assert int(usable.sum()) > 5
    assert torch.allclose(loss[usable].double(), expected[usable].detach(), rtol=1e-5, atol=1e-5)
    assert torch.allclose(grad[usable].double(), gradient[usable], rtol=2**-7, atol=2**-7)
