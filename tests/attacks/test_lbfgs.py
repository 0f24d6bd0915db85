"""Batched L-BFGS against the BFGS matrix, its first trials by hand, closed forms, and its options."""

import math
from types import SimpleNamespace

import pytest
import torch

from fastadv.attacks import lbfgs
from fastadv.attacks.lbfgs import BENDS, MEMORY, _newton
from fastadv.threat import L2

from .watched import scripted


@pytest.mark.parametrize("step", [0, 3, MEMORY - 1, MEMORY + 2])
def test_the_direction_is_that_of_the_bfgs_matrix(step: int) -> None:
    """Pairs of weight 0 do not count; the newest that counts sets the scale."""
    draw = torch.Generator().manual_seed(step)
    size = 5
    root = torch.randn(size, size, generator=draw, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(size)
    moves = torch.randn(2, MEMORY, size, generator=draw, dtype=torch.float64)
    changes = moves @ hessian
    weights = 1 / (moves * changes).sum(2)
    weights[0, 1] = weights[1, step % MEMORY] = 0
    if step + 1 < MEMORY:
        weights[:, step + 1 :] = 0
    gradient = torch.randn(2, size, generator=draw, dtype=torch.float64)
    rows = SimpleNamespace(moves=moves, changes=changes, weights=weights)
    direction = _newton(gradient, rows, step)
    for i in range(2):
        newest = [(step - age) % MEMORY for age in range(min(MEMORY, step + 1))]
        counted = [place for place in reversed(newest) if weights[i, place] > 0]
        inverse = torch.eye(size, dtype=torch.float64) / 2
        if counted:
            last = counted[-1]
            scale = 1 / (weights[i, last] * changes[i, last].square().sum())
            inverse = torch.eye(size, dtype=torch.float64) * scale
        for place in counted:
            s, c, rho = moves[i, place], changes[i, place], weights[i, place]
            left = torch.eye(size, dtype=torch.float64) - rho * torch.outer(s, c)
            inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
        torch.testing.assert_close(direction[i], inverse @ gradient[i])


@pytest.mark.parametrize(("gain", "taken"), [(0.1, True), (0.01, True), (-0.01, False)])
def test_the_first_trials_by_hand(gain: float, taken: bool) -> None:
    """A share of 1e-4 of what is promised is enough; else the length is halved, and again."""
    x, gradient = torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([4.0, -2.0, 1.0, 0.5]).double()
    margin, unit, slope = -0.1, 0.1 / BENDS, 1 / (1 + math.exp(-BENDS))
    constant = -margin / float(gradient.square().sum())
    way = constant * slope * gradient / 2
    # |way|^2 - constant * rise is to be `gain` times the promised descent, which is -2 |way|^2
    rise = (1 + 2 * gain) * float(way.square().sum()) / constant
    likelihood = math.exp(-math.log1p(math.exp(BENDS)) + rise / unit)
    second = unit * math.log(likelihood / (1 - likelihood))
    model, points = scripted([margin, second, -9.0], lambda number: gradient)
    lbfgs(model, x, torch.tensor([0]), L2(math.inf), steps=4, searches=1, constant=constant)
    torch.testing.assert_close(points[1], x[0] + way)
    assert torch.allclose(points[2], x[0] + way / 2) != taken
    assert torch.allclose(points[3], x[0] + way / 4) != taken


def test_the_first_constant_is_twice_what_a_linear_model_needs() -> None:
    """Where both parts balance at its boundary, at which the loss is half as steep as the margin."""
    x, gradient = torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([4.0, -2.0, 1.0, 0.5]).double()
    model, points = scripted([-0.1, -0.1], lambda number: gradient)
    lbfgs(model, x, torch.tensor([0]), L2(math.inf), steps=2, searches=1)
    constant = 2 * 4 * 0.1 / float(gradient.square().sum())
    torch.testing.assert_close(points[1], x[0] + constant / (1 + math.exp(-BENDS)) * gradient / 2)
