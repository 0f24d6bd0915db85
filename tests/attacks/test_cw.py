"""Carlini and Wagner's attacks against an oracle of theirs by autograd, closed forms, and their options."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import cw
from fastadv.attacks.cw import _fit
from fastadv.threat import L2, Linf, Threat

from .nets import images, labeled, labels, mlp
from .watched import scripted, watched

THREATS = {"l2": L2, "linf": Linf}


def by_autograd(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int, constant: float, step_size: float
) -> list[Tensor]:
    """The points of one search, by torch.optim.Adam on the objective as the paper writes it."""
    low, high = threat.box
    center, half = (low + high) / 2, 1.1 * (high - low) / 2
    most = math.atanh(1 / 1.1)
    w = ((x - center) / half).atanh().requires_grad_()
    adam = torch.optim.Adam([w], lr=step_size, eps=0)
    nearest, points = torch.full((len(x),), torch.inf, dtype=x.dtype), []
    for step in range(steps):
        adam.param_groups[0]["lr"] = step_size * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        z = center + half * w.tanh()
        points.append(z.detach().clone())
        logits = model(z)
        own = logits.gather(1, y[:, None]).squeeze(1)
        margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - own
        away = (z - x).flatten(1)
        reached = torch.linalg.vector_norm(away.detach(), threat.order, dim=1)
        nearest = torch.where((margin > 0) & (reached < nearest), reached, nearest)
        if threat.norm == "l2":
            distance = away.square().sum(1)
        else:
            distance = (away.abs() - 0.95 * nearest[:, None]).clamp_min(0).sum(1)
        (distance + constant * (-margin).clamp_min(0)).sum().backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            w.clamp_(-most, most)
    return points


@pytest.mark.slow
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 3.0)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_descent_is_that_of_the_paper(norm: str, box: tuple[float, float]) -> None:
    model, x = mlp(), images(6) * (box[1] - box[0]) + box[0]
    x[0, 0, 0, :2] = torch.tensor(box)
    y = labels(model, x)
    (function, seen), threat = watched(model, gradients=True), THREATS[norm](math.inf, box)
    out = cw(function, x, y, threat, steps=25, searches=1, constant=2.0, step_size=0.05)
    expected = by_autograd(model, x, y, threat, 25, 2.0, 0.05)
    assert out.success.any()
    assert len(seen) == 25
    for step in (0, 1, 2, 5, 12, 24):
        torch.testing.assert_close(seen[step], expected[step], rtol=1e-6, atol=1e-7)


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
@pytest.mark.parametrize("given", [None, 0.01])
def test_each_search_begins_with_a_fresh_adam(norm: str, given: float | None) -> None:
    """Its first step has one length in all coordinates, three times that before where nothing was found."""
    size, x = 9, torch.linspace(0.4, 0.6, 9, dtype=torch.float64)
    gradients = [torch.randn(size, generator=torch.Generator().manual_seed(n)).double() for n in range(20)]
    model, points = scripted([-0.01], lambda number: gradients[number])
    cw(model, x[None], torch.tensor([0]), THREATS[norm](math.inf), steps=4, searches=3, step_size=given)
    w = [((point - 0.5) / 0.55).atanh() for point in points]
    expected = 0.01
    if given is None:
        first = gradients[0]
        steps = {"l2": 1.5 / float(first.norm()) / size**0.5, "linf": 0.1 / float(first.abs().sum())}
        expected = 0.01 * steps[norm] / 0.5
    for search in range(3):
        first = 4 * search
        torch.testing.assert_close(points[first], x, rtol=0, atol=1e-12)
        most = expected if given else min(expected * 3**search, 0.1)
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
