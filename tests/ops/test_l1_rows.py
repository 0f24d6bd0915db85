"""Rows that mislead a search for the thresholds of l1_step and project_l1, which begins at a sample."""

from itertools import product

import pytest
import torch

import fastadv.ops as ops
from balls import assert_inside
from fastadv.ops.registration.library import CARDS

COLS = 5_000
ROWS = [
    pytest.param(cols, dtype, marks=[pytest.mark.slow] if cols == COLS else [])
    for cols, dtype in product((1, 2, 33, COLS), (torch.float32, torch.bfloat16))
]
INFINITE = float("inf")


def rows(cols, dtype=torch.float32):
    """(x_adv, grad, x) of two rows, x_adv in the box; a third of x on its edges."""
    draw = torch.Generator().manual_seed(cols)
    x = torch.rand(2, cols, generator=draw)
    x = torch.where(torch.rand(2, cols, generator=draw) < 0.3, x.round(), x)
    x_adv = (x + 0.05 * torch.randn(2, cols, generator=draw)).clamp(0, 1)
    return x_adv.to(dtype), torch.randn(2, cols, generator=draw).to(dtype), x.to(dtype)


def powers(grad):
    """Magnitudes from the least denormal float to the largest."""
    return grad.sign() * torch.logspace(-44, 38, grad.shape[1], dtype=torch.float64).to(grad.dtype)


def steep(first, count):
    """A gradient that is a thousand times steeper in `count` places of every 1,024, from `first` on."""
    return lambda grad: torch.where((torch.arange(grad.shape[1]) - first) % 1024 < count, 1e3 * grad, grad)


GRADIENTS = {
    "drawn": lambda grad: grad,
    "rising": lambda grad: grad.sort(1)[0],
    "of one size": torch.sign,
    "of few sizes": lambda grad: (2 * grad).round(),
    "zero": torch.zeros_like,
    "denormal": lambda grad: grad.sign() * 1e-42,
    "over all powers": powers,
    "infinite": lambda grad: grad.index_fill(1, torch.tensor([grad.shape[1] // 2]), INFINITE),
    "NaN": lambda grad: grad.index_fill(1, torch.tensor([0]), torch.nan),
    # runs of 32 places are looked at, and one in 32 is in the sample
    "steep in the sample": steep(0, 32),
    "steep in one place of the sample": steep(0, 1),
    "steep outside the sample": steep(32, 992),
}


def equals_reference(name, args):
    card, mine = CARDS[name], tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)
    expected = card.reference(*args)
    actual = getattr(torch.ops.fastadv, name)(*mine)
    card.compare(actual, expected, args)
    return actual


@pytest.mark.parametrize(("cols", "dtype"), ROWS)
def test_steps_equal_the_reference(cols, dtype):
    """Rows of all gradients at once."""
    count = len(GRADIENTS)
    x_adv, grad, x = rows(cols, dtype)
    grad = torch.cat([change(grad) for change in GRADIENTS.values()])
    x_adv, x = x_adv.repeat(count, 1), x.repeat(count, 1)
    limits = torch.tensor([0.0, 3.0], dtype=torch.float64).repeat(count)
    sizes = (1.0, 0.0), (0.0, 0.7), (1e-3, 0.7), (1.0, 0.7), (40.0, 0.7), (1.0, INFINITE), (1e6, INFINITE)
    for step_size, radius in sizes:
        z = equals_reference("l1_step", (x_adv, grad, x, radius, step_size, 0.0, 1.0))
        assert_inside(z, x, "l1", radius)
        equals_reference("l1_step", (x_adv, grad, x, 0.0, step_size, 0.0, 1.0, limits))


SHIFTS = {
    "drawn": lambda v: v,
    "of one size": lambda v: 0.125 * v.sign(),
    "of few sizes": lambda v: (32 * v).round() / 32,
    "zero": torch.zeros_like,
    "denormal": lambda v: 1e-42 * v.sign(),
    "over all powers": lambda v: v.sign() * torch.logspace(-30, 0, v.shape[1]),
    "few": lambda v: torch.where(torch.arange(v.shape[1]) % 700 == 5, v, 0.0),
    "large in the sample": lambda v: steep(0, 32)(v / 1e3),
    "large in one place of the sample": lambda v: steep(0, 1)(v / 1e3),
    "large outside the sample": lambda v: steep(32, 992)(v / 1e3),
    "beyond the box": lambda v: 30 * v,
}


@pytest.mark.parametrize(("cols", "dtype"), ROWS)
def test_projections_equal_the_reference(cols, dtype):
    """Rows of all shifts at once, at shares of the length of each."""
    x_adv, _, x = rows(cols)
    x_adv = torch.cat([x + change(x_adv - x) for change in SHIFTS.values()]).to(dtype)
    x = x.repeat(len(SHIFTS), 1).to(dtype)
    lengths = (x_adv.double() - x.double()).abs().sum(1)
    for radius in (0.0, 1e-12, INFINITE, *(share * lengths for share in (1 / 1000, 1 / 2, 1, 2))):
        number, limits = (radius, None) if isinstance(radius, float) else (0.0, radius)
        z = equals_reference("project_l1", (x_adv, x, number, 0.0, 1.0, limits))
        assert_inside(z, x, "l1", radius)
        assert torch.equal(ops.project_l1(z, x, radius), z)


def test_what_is_no_number_is_not_hidden():
    x_adv, grad, x = rows(COLS)
    for spoilt in (
        (x_adv, x.index_fill(1, torch.tensor([7]), torch.nan)),
        (x_adv.index_fill(1, torch.tensor([7]), INFINITE), x),
    ):
        for radius in (0.7, INFINITE):
            moved = torch.ops.fastadv.l1_step(spoilt[0], grad, spoilt[1], radius, 1.0, 0.0, 1.0)
            for out in (torch.ops.fastadv.project_l1(*spoilt, radius, 0.0, 1.0), moved):
                assert out[:, 7].isnan().all()
    limits = torch.tensor([torch.nan, 3.0], dtype=torch.float64)
    assert torch.equal(torch.ops.fastadv.project_l1(x_adv, x, 0.0, 0.0, 1.0, limits)[0], x[0])
