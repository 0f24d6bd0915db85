"""What every step guarantees: steepest ascent, a result in ball and box to the last bit, for any gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastadv.ops as ops
from balls import (
    STEP,
    assert_inside,
    dtypes,
    pair,
    radii,
    seeds,
    solve,
    widths,
)
from balls import step_batch as batch
from tests.refusals import refuses

kinds = st.sampled_from(list(STEP))
TWIN = {"linf": ops.linf_step_, "l2": ops.l2_step_, "l1": ops.l1_step_}


@pytest.mark.slow
@given(kinds, seeds, widths, radii, st.sampled_from([0.0, 0.01, 1.0, 100.0]), dtypes)
def test_never_leaves_ball_or_box(kind, seed, cols, radius, step_size, dtype):
    x_adv, grad, x = batch(seed, cols, dtype)
    assert_inside(STEP[kind](x_adv, grad, x, radius, step_size), x, kind, radius)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STEP)
@pytest.mark.parametrize("shape", [(1, 150_528), (500, 784)])
def test_one_long_row_and_many_short_ones(kind, shape):
    x_adv, grad, x = batch(5, shape[1], rows=shape[0])
    z = STEP[kind](x_adv, grad, x, 0.25, 0.5)
    assert_inside(z, x, kind, 0.25)
    alone = STEP[kind](x_adv[-1:], grad[-1:], x[-1:], 0.25, 0.5)
    assert torch.equal(z[-1:], alone), "a row depends on its batch"
    assert TWIN[kind](x_adv, grad, x, 0.25, 0.5) is x_adv


@pytest.mark.parametrize("kind", STEP)
def test_refusals(kind):
    x_adv, grad, x = batch(8, 6)
    step, rows = STEP[kind], torch.tensor([0.1, float("nan"), 0.1])
    refuses("grad: expected", step, x_adv, grad[:, :5], x, 0.1, 0.1)
    refuses("x: expected", step, x_adv, grad, x.double(), 0.1, 0.1)
    refuses("add a batch dimension", step, x_adv[0], grad[0], x[0], 0.1, 0.1)
    for radius in (-0.1, float("nan"), None, [0.1, 0.1, 0.1]):
        refuses("radius: expected a number >= 0", step, x_adv, grad, x, radius, 0.1)
    for size in ("0.1", True, -0.1):
        refuses(f"step_size: expected a number >= 0, got {size!r}", step, x_adv, grad, x, 0.1, size)
    refuses("step_size: expected values", step, x_adv, grad, x, 0.1, rows)
    refuses("one value a sample", step, x_adv, grad, x, torch.ones(2), 0.1)
    for box in ((0.0, float("nan")), None, (0.0, "one")):
        refuses("box: expected", step, x_adv, grad, x, 0.1, 0.1, box)


@given(
    seeds, st.sampled_from([1 / 255, 8 / 255, 0.3, 1e-6]), st.sampled_from([torch.float32, torch.bfloat16])
)
def test_linf_reaches_the_last_value_inside_the_ball(seed, radius, dtype):
    _, x = pair(seed, 2, 200, dtype=dtype)
    z = ops.linf_step(x, torch.ones_like(x), x, radius, 1.0)
    assert bool(((z.double() - x.double()) <= radius).all())
    beyond = torch.nextafter(z, torch.full_like(z, 2.0))
    # a value further would leave the ball as float32 holds its radius, or the box
    held = float(torch.tensor(radius, dtype=torch.float32)) * (1 - 1e-6)
    assert bool(((beyond.double() - x.double() > held) | (beyond > 1)).all())


@pytest.mark.slow
@given(seeds, widths, st.sampled_from([1e-3, 0.1, 0.5, 5.0]), st.sampled_from([0.01, 1.0, 50.0]))
def test_l2_equals_the_step_written_out(seed, cols, radius, step_size):
    x_adv, grad, x = batch(seed, cols, rows=4, spread=0.1)
    moved = x_adv.double() + step_size * grad.double() / grad.double().norm(dim=1, keepdim=True)
    expected = solve(moved, x, "l2", radius, (0.0, 1.0))
    assert torch.allclose(
        ops.l2_step(x_adv, grad, x, radius, step_size).double(), expected, rtol=0, atol=4e-7
    )


def test_l2_of_a_uniform_gradient_keeps_the_budget():
    # equal terms round alike, the worst case of a float32 sum
    for value in (0.1, 1 / 3, 0.7):
        x = torch.zeros(1, 3072)
        z = ops.l2_step(x, torch.full_like(x, value), x, value, 10.0)
        assert float((z.double()).norm()) <= value * (1 + 1e-12)


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
@given(seeds, widths, LENGTHS, dtypes)
def test_l1_equals_the_greedy_loop(seed, cols, step_size, dtype):
    x_adv, grad, x = batch(seed, cols, dtype, spread=0.1)
    z = ops.l1_step(x_adv, grad, x, float("inf"), step_size)
    unit = {torch.float64: 1e-12, torch.float32: 2e-7, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert torch.allclose(z.double(), ascended(x_adv, grad, step_size), rtol=0, atol=unit)


def test_l1_with_a_rounding_hair_of_room_does_not_swallow_the_step():
    below = torch.nextafter(torch.ones(1), torch.zeros(1)).item()
    x = torch.tensor([[0.5, 0.5, 0.5]])
    x_adv = torch.tensor([[below, 0.5, 0.5]])
    z = ops.l1_step(x_adv, torch.tensor([[5.0, -4.0, 1.0]]), x, float("inf"), 0.75)
    assert torch.allclose(z, torch.tensor([[1.0, 0.0, 0.75]]), rtol=0, atol=1e-6)


def test_l1_the_order_of_elements_rules_ties_in_any_layout():
    x = torch.full((2, 3, 4, 4), 0.5)
    grad = torch.ones_like(x)
    last = ops.l1_step(*(t.contiguous(memory_format=torch.channels_last) for t in (x, grad, x)), 1.0, 0.25)
    assert torch.equal(last, ops.l1_step(x, grad, x, 1.0, 0.25))
    assert float(last[0, 0, 0, 0]) == 0.75
