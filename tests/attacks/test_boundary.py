"""The boundary attack: its two steps, how their sizes adapt, its budget, the distances of linear models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import boundary
from fastadv.attacks.boundary import _Rows, _source, _spherical, _step
from fastadv.attacks.core.run import run
from fastadv.attacks.methods.start import away
from fastadv.threat import L2

from .nets import images, labeled, mlp

INF = torch.inf


def decided(says: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A model of two classes that says 1 to the points [n, D] for which `says` is true."""

    def model(z: Tensor) -> Tensor:
        wrong = says(z.flatten(1)).to(z.dtype)
        return torch.stack([1 - wrong, wrong], 1)

    return model


def within(says: Callable[[Tensor], Tensor], points: Tensor, rule: Any, **rows: float | Tensor) -> None:
    """Run `rule` of a search from points around x = 0 in a wide box, with these rows instead of the first."""
    x = torch.zeros_like(points)

    def started(search: Any) -> None:
        first = {"spherical": 0.5, "source": 0.1, "lift": 0.0, "deeper": torch.zeros_like(points), **rows}
        for name, value in first.items():
            given = value if isinstance(value, Tensor) else torch.full((len(x),), value, dtype=x.dtype)
            setattr(search.rows, name, given)
        search.rows.points = points.clone()
        search.rows.distance = search.distance(points)
        rule(search)

    y = torch.zeros(len(x), dtype=torch.long)
    model = decided(lambda z: says(z) & z.any(1))
    run(model, x, y, L2(INF, (-9.0, 9.0)), started, rows=_Rows, minimum=True)


def sample(inputs: int, size: int = 3) -> Tensor:
    return torch.randn(size, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_spherical_steps() -> None:
    """They end on the sphere, or `lift` deviations off it, and are as long as the size says."""
    points = sample(784)

    def rule(search: Any) -> None:
        outward = away(search)
        for lift in (0.0, 2.0):
            search.rows.lift = torch.full((3,), lift, dtype=points.dtype)
            ends = _spherical(search, outward, 50, 0)
            distance = search.distance(ends)
            expected = (search.rows.distance * (1 + lift * 0.3 / 28))[:, None].expand_as(distance)
            torch.testing.assert_close(distance, expected)
            along = torch.einsum("ncd,nd->nc", ends, outward)
            tangent = (distance**2 - along**2).sqrt() / along
            torch.testing.assert_close(tangent, torch.full_like(tangent, 0.3), rtol=0, atol=0.05)
            aside = ends - along[:, :, None] * outward[:, None]
            cosines = torch.nn.functional.normalize(aside.flatten(0, 1), dim=1)
            assert ((cosines @ cosines.T).fill_diagonal_(0).abs() < 0.2).all()
            assert not torch.equal(ends, _spherical(search, outward, 50, 1))

    within(lambda z: z[:, 0] < 9, points, rule, spherical=0.3)


def test_the_source_step() -> None:
    """It comes nearer by its size, at a right angle, on the side to which the answers lead."""
    points, deeper = sample(784), sample(784, 6)[3:]

    def rule(search: Any) -> None:
        ends = _source(search, away(search))
        torch.testing.assert_close(search.distance(ends), 0.8 * search.rows.distance)
        turned = ((ends - points) * ends).sum(1) / search.rows.distance**2
        torch.testing.assert_close(turned, torch.zeros_like(turned), rtol=0, atol=1e-9)
        assert ((ends * deeper).sum(1) > 0.8**2 * (points * deeper).sum(1)).all()

    within(lambda z: z[:, 0] < 9, points, rule, source=0.2, deeper=deeper)


def test_a_plane_is_reached_at_once() -> None:
    """A source step along its normal, of the right size, ends at its nearest point."""
    normal = torch.nn.functional.normalize(sample(784, 1), dim=1)
    points = normal + 0.5 * torch.nn.functional.normalize(sample(784, 2)[1:] - normal, dim=1)
    level = (points * normal).sum()

    def rule(search: Any) -> None:
        _step(search, 8, 0)
        torch.testing.assert_close(search.rows.points, level * normal)

    source = 1 - float(level / points.norm())
    within(lambda z: z @ normal[0] >= level * (1 - 1e-9), points, rule, source=source, deeper=normal)


@pytest.mark.slow
@pytest.mark.parametrize("adversarial", [True, False])
def test_sizes_follow_the_answers(adversarial: bool) -> None:
    """All candidates are adversarial, or none is."""
    points, sign = sample(784), 1 if adversarial else -1

    def rule(search: Any) -> None:
        _step(search, 9, 0)
        mean = torch.full((3,), sign * 0.9, dtype=points.dtype)
        torch.testing.assert_close(search.rows.spherical, 0.2 * 1.2**mean)
        torch.testing.assert_close(search.rows.source, 0 * mean + 0.05 * 1.5**sign)
        torch.testing.assert_close(search.rows.lift, -0.5 * mean)
        assert torch.equal(search.rows.points == points, torch.full_like(points, not adversarial).bool())
        for step in range(1, 150):
            _step(search, 9, step)
        if adversarial:
            assert (search.rows.source == 0.25).all()
            assert (search.rows.spherical == 1).all()
        else:
            assert (search.rows.source == 1e-7).all()
            assert (search.rows.spherical == 1e-4).all()

    within(lambda z: torch.full_like(z[:, 0], adversarial).bool(), points, rule, spherical=0.2, source=0.05)


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
