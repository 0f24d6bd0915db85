"""distance and largest against closed forms and torch's norm, at edges, where values are not finite."""

from math import inf

import pytest
import torch

from fastadv.ops import distance, largest
from tests.refusals import refuses

ORDERS = (inf, 2.0, 1.0, 0.0, 0.5, 3.0)


def test_a_small_difference_of_large_values_keeps_its_digits():
    x = torch.full((1, 4), 1000.0)
    x_adv = x + 2.0**-13  # one unit in the last place
    assert distance(x_adv, x, 1.0)[0].item() == 4 * float(x_adv[0, 0] - x[0, 0])
    assert distance(x * 1e-30, 0 * x, 2.0)[0].item() == pytest.approx(
        2e-27, rel=1e-6
    )  # squares underflow in float
    assert distance(x * 1e30, 0 * x, 2.0)[0].item() == pytest.approx(2e33, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_box_is_the_one_that_the_dtype_holds(dtype):
    edge = torch.tensor([[0.1], [0.9]], dtype=dtype)
    _, inside = distance(edge, edge, 2.0, (0.1, 0.9))
    assert inside.all()
    below, above = torch.nextafter(edge[0], edge[0] - 1), torch.nextafter(edge[1], edge[1] + 1)
    outside = torch.stack([below, above])
    assert not distance(outside, outside, 2.0, (0.1, 0.9))[1].any()
    assert distance(outside, outside, 2.0)[1].all()


@pytest.mark.parametrize("cols", [1, 7, 16, 33])
@pytest.mark.parametrize("order", ORDERS)
def test_nan_and_infinity_at_any_place(order, cols):
    x = torch.zeros(cols, cols)
    for bad, norm in ((torch.nan, torch.nan), (inf, inf)):
        x_adv = torch.where(torch.eye(cols) > 0, bad, 0.0)
        length, inside = distance(x_adv, x, order)
        expected = torch.full((cols,), 1.0 if order == 0 else norm, dtype=torch.float64)
        torch.testing.assert_close(length, expected, equal_nan=True)
        assert inside.all() == (bad == inf)
        # in x alone: the norm is unknown, the point is in the box
        length, inside = distance(x, x_adv, order, (0.0, 1.0))
        torch.testing.assert_close(length, expected, equal_nan=True)
        assert inside.all()


@pytest.mark.parametrize("order", [inf, 2.0, 1.0, 3.0])
def test_gradient_is_that_of_the_norm(order):
    draw = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        x_adv, x = (torch.rand(4, 3, 5, 5, generator=draw).to(dtype).requires_grad_() for _ in range(2))
        by = torch.rand(4, generator=draw, dtype=torch.float64)
        length, inside = distance(x_adv, x, order)
        assert not inside.requires_grad
        expected = torch.linalg.vector_norm((x_adv.double() - x.double()).flatten(1), order, dim=1)
        ours = torch.autograd.grad(length, (x_adv, x), by)
        theirs = torch.autograd.grad(expected, (x_adv, x), by)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_two_dtypes_meet_in_the_wider():
    x = torch.tensor([[0.1, 0.2]])
    length, _ = distance(x.double() + 1e-12, x, inf)
    assert length.item() == pytest.approx(1e-12, rel=1e-3)
    assert distance(x, x.bfloat16(), 1.0)[0].item() == pytest.approx(
        float((x.double() - x.bfloat16().double()).abs().sum())
    )


def test_refusals():
    x = torch.rand(2, 3)
    for order in (-1.0, float("nan"), "two"):
        refuses("order", distance, x, x, order)
    refuses("box", distance, x, x, 2.0, (1.0, 0.0))
    refuses("like the first argument", distance, x, x[:1], 2.0)
    refuses("rank >= 2", distance, x[0], x[0], 2.0)


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_what_is_not_finite_shows_in_its_own_row_alone(dtype):
    values = torch.full((6, 33), -0.5, dtype=dtype)
    values[1, 32], values[2, 0], values[3, 5] = torch.nan, -torch.inf, torch.inf
    values[4, 7], values[4, 8], values[5] = torch.inf, -torch.nan, -0.0
    sizes = largest(values).double().tolist()
    assert sizes[0] == 0.5
    assert sizes[2:4] == [float("inf")] * 2
    assert sizes[1] != sizes[1]
    assert sizes[4] != sizes[4]
    assert str(sizes[5]) == "0.0"
