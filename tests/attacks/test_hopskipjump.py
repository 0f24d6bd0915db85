"""HopSkipJump and the boundary attack: where they start, their steps, and their budgets."""

import math
from itertools import count, pairwise

import pytest
import torch
from torch import Tensor

from fastadv.attacks import boundary, hopskipjump
from fastadv.attacks.boundary import _adapt, _Walk
from fastadv.threat import L2, THREATS
from tests.refusals import refuses

from .nets import images, labeled, labels, linear, mlp
from .watched import watched

INF = torch.inf
SIZE = 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "order", "halvings", "thickness", "queries"),
    [("l2", 2.0, 10, 0.01, 400), ("linf", INF, 14, INF, 400), ("linf", INF, 14, 1e-9, 90)],
)
def test_what_is_asked_step_by_step(norm, order, halvings, thickness, queries):
    """With D coordinates, bisections come within D^-1.5 or D^-2, B_t = 30 sqrt(t), delta = d / D but 0.1 at
    first, and steps are d / sqrt(t), halved until they succeed, or leave no query but those of the bisection.

    The other class is a layer, which long steps leap over.
    """
    assert halvings == math.ceil((1.5 if norm == "l2" else 2) * math.log2(SIZE))
    x, others, normal = images(1, (SIZE,)), images(99, (SIZE,), seed=9), images(1, (SIZE,), seed=8)[0] - 0.5

    def depth(z: Tensor) -> Tensor:
        return (z - x) @ normal - 0.1

    def net(z: Tensor) -> Tensor:
        wrong = ((depth(z) > 0) & (depth(z) <= thickness)).to(z.dtype)
        return torch.stack([1 - wrong, wrong], 1)

    model, seen = watched(net)
    y, far_off = torch.zeros(1).long(), others[depth(others) > 0][:1]
    start = x + (far_off - x) * (min(thickness / 2, float(depth(far_off))) + 0.1) / (depth(far_off) + 0.1)
    hopskipjump(
        model, x, y, THREATS[norm](INF), queries=queries, starts=start, directions=30, variant="published"
    )
    flow = iter(torch.cat(seen[1:]))

    def far(point: Tensor) -> float:
        return float((point - x[0]).norm(p=order))

    def wrong(point: Tensor) -> bool:
        return bool(net(point[None]).argmax())

    def bisected(point: Tensor) -> Tensor:
        low, high, best = 0.0, 1.0, point
        for _ in range(halvings):
            asked, share = next(flow), (low + high) / 2
            away = point - x[0]
            reach = share * far(point)
            torch.testing.assert_close(
                asked, x[0] + (share * away if norm == "l2" else away.clamp(-reach, reach))
            )
            low, high, best = (low, share, asked) if wrong(asked) else (share, high, best)
        return best

    point = next(flow)
    assert torch.equal(point, start[0])
    before, point, left, halved = 0.1 * SIZE, bisected(point), queries - 1 - halvings, 0
    for step in count(1):
        left -= int(30 * math.sqrt(step)) + 1
        if left < halvings:
            break
        probes = torch.stack([next(flow) for _ in range(int(30 * math.sqrt(step)))])
        ways = (probes - point) / (before / SIZE)
        assert (ways.norm(dim=1) <= 1 + 1e-6).all()
        whole = ((probes > 0) & (probes < 1)).all(1)  # the box cuts off the others
        assert step > 1 or norm == "linf" or whole.float().mean() > 0.2
        assert (ways.norm(dim=1)[whole] > 1 - 1e-6).all()
        answers = net(probes)[:, 1] * 2 - 1
        mean = answers.mean()
        gradient = ((answers - (mean if mean.abs() < 1 else 0)) @ ways).div(len(ways))
        update = gradient / gradient.norm() if norm == "l2" else gradient.sign()
        size = far(point) / math.sqrt(step)
        while True:
            asked = next(flow)
            torch.testing.assert_close(asked, (point + size * update).clamp(0, 1))
            if wrong(asked):
                point = asked
            if wrong(asked) or left == halvings:
                break
            left, halved, size = left - 1, halved + 1, size / 2
        left -= halvings
        before, point = far(point), bisected(point)
    assert len(list(flow)) == 1  # the last verdict
    assert bool(halved) == (thickness < INF)


@pytest.mark.slow
def test_half_of_the_spherical_steps_succeed() -> None:
    """Although half of the pixels are 0 and could only rise, away from the boundary."""
    normal = torch.randn(784, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
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


def test_spherical_steps_grow_by_a_fifth_if_all_succeed() -> None:
    """Less what one undecided candidate counts beside the nine."""
    x, steps = images(1, (784,)), list[Tensor]()

    def model(z: Tensor) -> Tensor:
        if len(z) == 10:
            steps.append(z - x)
        wrong = (z != x).any(1).double()
        return torch.stack([1 - wrong, wrong], 1)

    threat = L2(INF, (-INF, INF))
    boundary(model, x, torch.zeros(1).long(), threat, queries=47, candidates=10, starts=1 - x)
    sizes = list[float]()
    for before, ways in pairwise(steps):
        along = ways[:-1] @ before[-1] / before[-1].norm()  # the last one was taken
        sizes.append(float((ways[:-1].square().sum(1) / along.square() - 1).mean().sqrt()))
    assert sizes[1] / sizes[0] == pytest.approx(1.2**0.9, rel=0.04)


def followed(on_sphere: float, nearer: float, answers: int) -> tuple[list[float], list[float]]:
    """The sizes, over the first, after each of so many answers with these rates, evenly spread."""
    rows = _Walk()
    rows.spherical, rows.source = torch.ones(1), torch.ones(1)
    rows.on_sphere, rows.nearer = torch.full((1, 100), torch.nan), torch.full((1, 30), torch.nan)
    sizes: tuple[list[float], list[float]] = ([], [])
    for n in range(answers):
        answered = [float(int((n + 1) * rate) > int(n * rate)) for rate in (nearer, on_sphere)]
        rows.met = torch.tensor(answered[:1]).bool()
        _adapt(rows, torch.tensor(answered[1:]).bool())
        sizes[0].append(float(rows.spherical))
        sizes[1].append(float(rows.source))
    return sizes


@pytest.mark.slow
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


def test_the_nearest_start_is_taken() -> None:
    """All noise is a start; the way to the boundary begins at what is nearest to x."""
    x = images(1, (1, 28, 28))

    def at_x(z: Tensor) -> Tensor:
        return torch.stack([0.1 - (z - x[0]).flatten(1).norm(dim=1), z.new_zeros(len(z))], 1)

    model, seen = watched(at_x)
    hopskipjump(model, x, torch.zeros(1, dtype=torch.long), L2(INF), queries=30)
    noise, first = seen[1], seen[2]
    torch.testing.assert_close(first[0], (x[0] + noise[(noise - x).flatten(1).norm(dim=1).argmin()]) / 2)


def test_starts_of_the_caller() -> None:
    """They cost one query and need no finite box; those of samples already wrong are not used."""
    net, x, y = labeled(linear(3).double(), images(4))
    y[1] = (y[1] + 1) % 3
    starts = torch.zeros_like(x)
    for i in range(4):
        starts[i] = next(z for z in 4 * images(50, seed=9) - 2 if labels(net, z[None]) != y[i])
    starts[1] = x[1]
    model, seen = watched(net)
    out = hopskipjump(model, x, y, L2(INF, (-INF, INF)), queries=200, directions=20, starts=starts)
    assert out.status.tolist() == [1, 0, 1, 1]
    assert torch.equal(seen[1], starts[[0, 2, 3]])
    torch.testing.assert_close(seen[2], ((x + starts) / 2)[[0, 2, 3]])
    assert (out.distance < (starts - x).flatten(1).norm(dim=1))[[0, 2, 3]].all()


def test_starts_that_cannot_be_used() -> None:
    model, x, y = labeled(linear(3).double(), images(4))
    good = torch.stack([next(z for z in images(50, seed=9) if labels(model, z[None]) != c) for c in y])
    bad, mask = good.clone(), torch.zeros(1, 4, 4, dtype=torch.bool)
    bad[2], mask[0, 0, 0] = x[2], True
    for starts, more, message in (
        (bad, {"ids": torch.tensor([1, 3, 7, 9])}, r"starts: .*ids \[7\]"),
        (good, {"mask": mask}, "starts: .* mask"),
        (good + 1, {}, r"starts: expected finite values in the box \[0, 1\]"),
    ):
        refuses(message, hopskipjump, model, x, y, L2(INF), queries=50, starts=starts, **more)
