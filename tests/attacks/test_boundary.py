"""The boundary attack: its two steps, how their sizes adapt, its budget, the distances of linear models."""

import pytest
import torch
from torch import Tensor

from fastadv.attacks import boundary
from fastadv.attacks.boundary import _adapt, _Walk
from fastadv.threat import L2

from .nets import images, labeled, labels, linear, mlp
from .watched import watched

INF = torch.inf


def sample(inputs: int, size: int = 3) -> Tensor:
    return torch.randn(size, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.slow
def test_half_of_the_spherical_steps_succeed() -> None:
    """Although half of the pixels are 0 and could only rise, away from the boundary."""
    normal = sample(784, 1)[0]
    x = torch.zeros(2, 784, dtype=torch.float64)
    start = (0.2 * normal.clamp_min(0)).repeat(2, 1)
    level = start[0] @ normal - 1e-9
    shares: list[float] = []

    def model(z: Tensor) -> Tensor:
        wrong = (z @ normal > level).to(z.dtype)
        if len(z) == 2 * 20:
            shares.append(float(wrong.view(2, 20)[:, :-1].mean()))
        return torch.stack([1 - wrong, wrong], 1)

    boundary(model, x, torch.zeros(2, dtype=torch.long), L2(INF), queries=2000, candidates=20, starts=start)
    assert max(shares[:2]) < 0.2
    assert 0.3 < sum(shares[-50:]) / 50 < 0.7


@pytest.mark.slow
def test_steps_are_queries() -> None:
    """The smaller of the two budgets counts."""
    model, x, y = labeled(mlp(), images(3))
    one = boundary(model, x, y, L2(INF), queries=60)
    for budget in ({"steps": 60}, {"steps": 60, "queries": 90}, {"steps": 90, "queries": 60}):
        other = boundary(model, x, y, L2(INF), **budget)
        assert torch.equal(other.x_adv, one.x_adv)
        assert other.forwards == one.forwards


def followed(on_sphere: float, nearer: float, answers: int) -> tuple[list[float], list[float]]:
    """The sizes, over the first, after each of so many answers with these rates, evenly spread."""
    rows = _Walk()
    rows.spherical, rows.source = torch.ones(1), torch.ones(1)
    rows.on_sphere, rows.nearer = torch.full((1, 100), torch.nan), torch.full((1, 30), torch.nan)
    sizes: tuple[list[float], list[float]] = ([], [])
    for n in range(answers):
        given = [float(int((n + 1) * rate) > int(n * rate)) for rate in (nearer, on_sphere)]
        rows.met = torch.tensor(given[:1]).bool()
        _adapt(rows, torch.tensor(given[1:]).bool())
        sizes[0].append(float(rows.spherical))
        sizes[1].append(float(rows.source))
    return sizes


def test_sizes_follow_the_rates_of_full_windows() -> None:
    """Of 100 answers about the sphere a half or a fifth; of 30 candidates a quarter or a tenth."""
    for on_sphere, nearer in ((0.3, 0.2), (0.49, 0.23), (0.21, 0.12)):
        spherical, source = followed(on_sphere, nearer, 250)
        assert set(spherical) == set(source) == {1.0}
    spherical, source = followed(0.6, 0.2, 250)
    assert spherical == source == [1.0] * 99 + [1.5] * 100 + [2.25] * 51
    spherical, source = followed(0.1, 0.2, 100)
    assert spherical[98:] == source[98:] == pytest.approx([1.0, 1 / 1.5])
    spherical, source = followed(0.3, 0.5, 60)
    assert set(spherical) == {1.0}
    assert source == [1.0] * 29 + [1.5] * 30 + [2.25]
    assert followed(0.3, 0.05, 30)[1][28:] == pytest.approx([1.0, 1 / 1.5])


def test_every_tenth_step_asks_about_the_sphere_too() -> None:
    """At the end of a step, so that it lies on the sphere on which the step began."""
    net, x = linear(3, 784).double(), images(1, (784,))
    y, others = labels(net, x), images(99, (784,), seed=9)
    model, seen = watched(net)
    start = others[labels(net, others) != y][:1]
    boundary(model, x, y, L2(INF), queries=56, starts=start, variant="published")
    assert [len(batch) for batch in seen] == [1] * (2 + 55 + 1)
    distances = [float((batch[0] - x[0]).norm()) for batch in seen[1:-1]]
    assert distances[1] == pytest.approx(0.99 * distances[0])
    assert distances[10] == pytest.approx(0.99 * distances[11])


def test_a_walk_that_has_converged_ends() -> None:
    net, x = linear(3, 784).double(), images(2, (784,))
    y: Tensor = labels(net, x)
    out = boundary(net, x, y, L2(INF), queries=500, variant="published", source_step=9e-8)
    assert out.success.all()
    assert out.forwards < 2 * 20
