"""The boundary attack: its two steps, how their sizes adapt, its budget, the distances of linear models."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import boundary
from fastadv.attacks.boundary import _adapt, _propose, _source, _spherical, _step, _Walk
from fastadv.attacks.boundary import _OurRows as Rows
from fastadv.attacks.core.run import run
from fastadv.attacks.methods.start import away
from fastadv.threat import L2

from .nets import images, labeled, labels, linear, mlp
from .watched import firm, watched

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
    run(model, x, y, L2(INF, (-9.0, 9.0)), started, rows=Rows, minimum=True)


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


@pytest.mark.parametrize("box", [(-9.0, 9.0), (0.0, 1.0)])
def test_the_candidate_lies_aside_on_the_sphere_and_then_nearer(box: tuple[float, float]) -> None:
    """By Pythagoras: aside by 0.3 of the distance, turned by atan 0.3; what the box takes off counts."""
    x = torch.full((3, 784), 0.5, dtype=torch.float64)
    points = x + (0.5 if box[0] == 0 else 0.1) * images(3, (784,)).sub(0.5)

    def rule(search: Any) -> None:
        search.rows.points, search.rows.spherical = points, search.full(0.3)
        search.rows.source = search.full(0.1)
        nearer, sphere = _propose(search, 1)
        radius = (points - x).norm(dim=1)
        torch.testing.assert_close((nearer - x).norm(dim=1), 0.9 * radius)
        along = ((sphere - x) * (points - x)).sum(1) / (sphere - x).norm(dim=1) / radius
        torch.testing.assert_close(along, torch.full_like(along, 1 / math.hypot(1, 0.3)), rtol=0.01, atol=0)
        unit = (sphere - x) / (sphere - x).norm(dim=1)[:, None]
        torch.testing.assert_close((nearer - x) / 0.9 / radius[:, None], unit)
        if box[0] < 0:
            torch.testing.assert_close((sphere - x).norm(dim=1), radius)
        assert not torch.equal(sphere, _propose(search, 2)[1])

    model, _ = firm()
    run(model, x, torch.zeros(3, dtype=torch.long), L2(INF, box), rule, rows=_Walk, minimum=True)


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
