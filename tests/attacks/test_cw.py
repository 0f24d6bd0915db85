"""C&W, EAD and L-BFGS against oracles by autograd, closed forms, and their options."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastadv.attacks import cw, ead, lbfgs
from fastadv.attacks.cw import _fit
from fastadv.attacks.lbfgs import BENDS, MEMORY, _newton
from fastadv.threat import L1, L2, Linf

from .nets import images, labeled, mlp
from .watched import scripted, watched

THREATS = {"l2": L2, "linf": Linf}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_where_the_second_search_starts(norm: str) -> None:
    """L2 starts at x again, Linf at the nearest success."""
    model, x, y = labeled(mlp(), images(6))
    function, seen = watched(model, gradients=True)
    threat = THREATS[norm](math.inf)
    first = cw(model, x, y, threat, steps=25, searches=1)
    cw(function, x, y, threat, steps=25, searches=2)
    assert first.success.any()
    torch.testing.assert_close(seen[25], x if norm == "l2" else first.x_adv)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("asked", [None, 0.01])
def test_each_search_begins_with_a_fresh_adam(norm: str, asked: float | None) -> None:
    """Its first step has one length in all coordinates, three times that before where nothing was found."""
    size, x = 9, torch.linspace(0.4, 0.6, 9, dtype=torch.float64)
    gradients = [torch.randn(size, generator=torch.Generator().manual_seed(n)).double() for n in range(20)]
    model, points = scripted([-0.01], lambda number: gradients[number])
    cw(model, x[None], torch.tensor([0]), THREATS[norm](math.inf), steps=4, searches=3, step_size=asked)
    w = [((point - 0.5) / 0.55).atanh() for point in points]
    expected = 0.01
    if asked is None:
        first = gradients[0]
        steps = {"l2": 1.5 / float(first.norm()) / size**0.5, "linf": 0.1 / float(first.abs().sum())}
        expected = 0.01 * steps[norm] / 0.5
    for search in range(3):
        first = 4 * search
        torch.testing.assert_close(points[first], x, rtol=0, atol=1e-12)
        most = expected if asked else min(expected * 3**search, 0.1)
        move = w[first + 1] - w[first]
        torch.testing.assert_close(move, most * gradients[first].sign(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("loss", [-2.0, -0.02])  # the first leads to the largest step
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_first_constant_ignores_pixels_that_cannot_move(norm: str, loss: float) -> None:
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    gradient = torch.tensor([[90.0, -70.0, 3.0, -4.0]])
    rows = SimpleNamespace()
    search = SimpleNamespace(
        rows=rows, x=x, threat=THREATS[norm](math.inf), best=SimpleNamespace(rank=torch.zeros(1))
    )
    _fit(search, SimpleNamespace(loss=torch.tensor([loss]), gradient=gradient), None, None)
    constants = {"l2": 4 * 2 * -loss / 25, "linf": 0.3 / 4}
    steps = {"l2": 1.5 * (-loss / 5 / 2) * 2, "linf": 0.1 * (-loss / 7) * 2}
    constant, step = constants[norm], steps[norm]
    torch.testing.assert_close(rows.constant, torch.tensor([constant]))
    torch.testing.assert_close(rows.step_size, torch.tensor([min(step, 0.1)]))


def test_the_first_step_of_ead_by_hand() -> None:
    """The constant is four times what a linear model needs; the last point judged is no momentum's."""
    x, gradient = torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([4.0, -2.0, 1.0, 0.5]).double()
    model, points = scripted([-1.5], lambda number: gradient)
    seen: list[Tensor] = []

    def function(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        logits: Tensor = model(z)
        return logits

    ead(function, x, torch.tensor([0]), L1(math.inf), steps=2, searches=1)
    # the steepest pixel alone reaches the boundary; it is to go a tenth of the way, shortened by beta = 10
    constant = 4 * (10 / 4 + 2 * 1.5 / float(gradient.square().sum()))
    rate = 0.1 * (1.5 / 4) / (constant * 4)
    moved = gradient.sign() * (rate * constant * gradient.abs() - rate * 10).clamp_min(0)
    torch.testing.assert_close(points[1] - 0.5, moved * 1.25)
    # half the rate; two steps of momentum lead beyond what is judged
    away = 1.25 * moved
    ahead = away + rate / 2 * (constant * gradient - 2 * away)
    reached = ahead.sign() * (ahead.abs() - rate / 2 * 10).clamp_min(0)
    assert any(torch.allclose(batch[0] - 0.5, reached, rtol=0, atol=1e-9) for batch in seen)


@pytest.mark.slow
def test_a_start_from_which_a_linear_model_reaches_nothing() -> None:
    """Half of the pixels do not count, and the slope at x is too small: the constant fits those that do."""

    def model(z: Tensor) -> Tensor:
        total = z[:, ::2].sum(1)
        return torch.stack([torch.ones_like(total), 0.02 * total + 3 * (total - 2).relu()], 1)

    x = torch.full((1, 20), 0.05, dtype=torch.float64)
    assert ead(model, x, torch.tensor([0]), L1(math.inf), steps=60, searches=1).success


@pytest.mark.slow
def test_a_search_after_one_without_a_success_leaves_the_hill() -> None:
    def model(z: Tensor) -> Tensor:
        height = z.mean(1)
        hill = torch.minimum(height, 0.8 - height).maximum(10 * (height - 0.8)) - 1
        return torch.stack([torch.zeros_like(hill), hill], 1)

    x, y = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0])
    assert not ead(model, x, y, L1(math.inf), steps=40, searches=1).success
    assert ead(model, x, y, L1(math.inf), steps=40, searches=2).success


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
def test_the_first_trials_of_lbfgs_by_hand(gain: float, taken: bool) -> None:
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


def test_the_first_constant_of_lbfgs_is_twice_what_a_linear_model_needs() -> None:
    """Where both parts balance at its boundary, at which the loss is half as steep as the margin."""
    x, gradient = torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([4.0, -2.0, 1.0, 0.5]).double()
    model, points = scripted([-0.1, -0.1], lambda number: gradient)
    lbfgs(model, x, torch.tensor([0]), L2(math.inf), steps=2, searches=1)
    constant = 2 * 4 * 0.1 / float(gradient.square().sum())
    torch.testing.assert_close(points[1], x[0] + constant / (1 + math.exp(-BENDS)) * gradient / 2)
