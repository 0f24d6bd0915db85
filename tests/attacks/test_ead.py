"""The elastic-net attack against a plain one by autograd, closed forms, and its options."""

import math

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import ead
from fastadv.threat import L1

from .nets import images, labels, mlp
from .watched import scripted, watched

pytestmark = pytest.mark.slow


def by_autograd(
    model: nn.Module, x: Tensor, y: Tensor, threat: L1, steps: int, constant: float, beta: float, share: float
) -> list[Tensor]:
    """The points of one search, one sample after the other, as Chen et al. write them."""
    low, high = threat.box
    points: list[list[Tensor]] = [[] for _ in range(steps)]
    for one, label in zip(x, y, strict=True):
        before = after = one[None]
        steepest = 0.0
        for step in range(steps):
            z = after.clone().requires_grad_()
            points[step].append(z.detach()[0])
            logits = model(z)[0]
            others = [logits[k] for k in range(len(logits)) if k != int(label)]
            margin = torch.stack(others).max() - logits[label]
            (gradient,) = torch.autograd.grad(margin, z)
            steepest = max(steepest, float(gradient.abs().max()))
            if step == 0:
                length = min(-float(margin.detach()) / steepest, high - low)
            smooth = 2 * (after - one) - (constant * gradient if margin < 0 else 0)
            rate = share * length * (1 - step / steps) / (constant * steepest)
            moved = after - rate * smooth
            away = nn.functional.softshrink(moved - one, rate * beta)
            reached = (one + away).clamp(low, high)
            after = (reached + step_plus(step) * (reached - before)).clamp(low, high)
            before = reached
    return [torch.stack(each) for each in points]


def step_plus(step: int) -> float:
    """k / (k + 3) for the k-th step."""
    return (step + 1) / (step + 4)


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 3.0)])
def test_the_descent_is_that_of_the_paper(box: tuple[float, float]) -> None:
    model, x = mlp(), images(5) * (box[1] - box[0]) + box[0]
    x[0, 0, 0, :2] = torch.tensor(box)
    y = labels(model, x)
    function, seen = watched(model, gradients=True)
    out = ead(function, x, y, L1(math.inf, box), steps=20, searches=1, constant=3.0, beta=0.4, step_size=0.2)
    expected = by_autograd(model, x, y, L1(math.inf, box), 20, 3.0, 0.4, 0.2)
    assert out.success.any()
    assert len(seen) == 20
    for step in range(20):
        torch.testing.assert_close(seen[step], expected[step], rtol=1e-6, atol=1e-7)


def test_the_first_step_by_hand() -> None:
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


def test_a_start_from_which_a_linear_model_reaches_nothing() -> None:
    """Half of the pixels do not count, and the slope at x is too small: the constant fits those that do."""

    def model(z: Tensor) -> Tensor:
        total = z[:, ::2].sum(1)
        return torch.stack([torch.ones_like(total), 0.02 * total + 3 * (total - 2).relu()], 1)

    x = torch.full((1, 20), 0.05, dtype=torch.float64)
    assert ead(model, x, torch.tensor([0]), L1(math.inf), steps=60, searches=1).success


def test_a_search_after_one_without_a_success_leaves_the_hill() -> None:
    def model(z: Tensor) -> Tensor:
        height = z.mean(1)
        hill = torch.minimum(height, 0.8 - height).maximum(10 * (height - 0.8)) - 1
        return torch.stack([torch.zeros_like(hill), hill], 1)

    x, y = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0])
    assert not ead(model, x, y, L1(math.inf), steps=40, searches=1).success
    assert ead(model, x, y, L1(math.inf), steps=40, searches=2).success
