"""HopSkipJump: its estimate of the normal, its steps, its budget, and the distances of linear models."""

import math
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import hopskipjump
from fastadv.attacks.core.run import run
from fastadv.attacks.hopskipjump import TILTS, _move, _OurRows, _probe, _tilt
from fastadv.attacks.methods.start import away
from fastadv.threat import THREATS

from .nets import images, labeled, labels, linear
from .watched import watched

INF = torch.inf
Model = Callable[[Tensor], Tensor]


def plane(normal: Tensor, level: float) -> Model:
    """Class 1 where <normal, x> is above the level, and else class 0."""

    def model(z: Tensor) -> Tensor:
        along = z.flatten(1) @ normal.flatten() - level
        return torch.stack([-along, along], 1)

    return model


def within(model: Model, x: Tensor, norm: str, points: Tensor, rule: Any, **rows: Tensor) -> None:
    """Run `rule` of a search whose points are these."""

    def started(search: Any) -> None:
        search.rows.points = points.clone()
        search.rows.shift = torch.zeros(len(x), dtype=x.dtype)
        search.rows.normal = away(search)
        vars(search.rows).update(rows)
        rule(search)

    y = torch.zeros(len(x), dtype=torch.long)
    run(model, x, y, THREATS[norm](INF), started, rows=_OurRows, minimum=True)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_probes_find_the_normal(norm: str) -> None:
    """As well as B random signs can in D dimensions: the signal is sqrt(2 B / pi D) of the noise."""
    normal = torch.randn(784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.full((3, 784), 0.5, dtype=torch.float64)
    points = x + 0.3 * images(3, (784,)).sub(0.5)
    points += (0.5 - (points - 0.5) @ normal)[:, None] * normal / normal.norm() ** 2
    model = plane(normal, float(normal.sum()) * 0.5 + 0.5 - 1e-9)

    def rule(search: Any) -> None:
        known = search.rows.normal
        _probe(search, 400, count())
        found = search.rows.gradient
        rest = normal - (known @ normal)[:, None] * known
        cosine = (found * rest).sum(1) / rest.norm(dim=1)
        signal = 2 * 400 / math.pi / 784
        expected = math.sqrt(signal / (1 + signal))
        assert ((cosine - expected).abs() < 0.06).all()
        torch.testing.assert_close((found * known).sum(1), torch.zeros(3, dtype=x.dtype), rtol=0, atol=1e-9)
        search.rows.gradient = rest / rest.norm(dim=1, keepdim=True)
        _tilt(search)
        cosine = search.rows.normal @ normal / normal.norm()
        assert (cosine > math.cos(math.pi / 2 ** (TILTS + 2))).all()

    within(model, x, norm, points, rule)


@pytest.mark.slow
def test_what_is_known_of_the_normal_and_how_many_probes_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """In L2 the way from x, in Linf the last estimate; B_0 sqrt(t) probes at step t (algorithm 2)."""
    page, known, counts = sys.modules["fastadv.attacks.hopskipjump"], [], []

    def spy(search: Any, probes: int, draws: Any) -> None:
        known.append((search.rows.normal, away(search)))
        counts.append(probes)
        _probe(search, probes, draws)

    monkeypatch.setattr(page, "_probe", spy)
    model, x = linear(3, 784).double(), images(2, (784,))
    for norm in ("l2", "linf"):
        known.clear()
        counts.clear()
        hopskipjump(model, x, labels(model, x), THREATS[norm](INF), queries=1000, directions=20)
        wanted = [math.ceil(20 * math.sqrt(step)) for step in range(1, len(counts) + 1)]
        assert len(counts) >= 8
        assert counts[:-1] == wanted[:-1]
        assert 1 <= counts[-1] <= wanted[-1]
        assert all(torch.equal(normal, way) == (norm == "l2") for normal, way in known[1:])
        assert torch.equal(*known[0])


@pytest.mark.slow
def test_answers_come_to_balance_at_the_edge_of_the_box() -> None:
    """Half of the pixels are 0 and could only rise, away from the boundary: most probes answer the same."""
    x = torch.zeros(2, 784, dtype=torch.float64)
    normal = torch.randn(784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = (0.2 * normal.clamp_min(0)).repeat(2, 1)
    shares = []

    def rule(search: Any) -> None:
        draws = count()
        for _ in range(10):
            _probe(search, 100, draws)
            shares.append((search.rows.answers / 100).tolist())

    within(plane(normal, float(points[0] @ normal) - 1e-9), x, "l2", points, rule)
    assert max(shares[0]) < -0.9
    assert all(abs(share) < 0.6 for pair in shares[-3:] for share in pair)


def test_the_longest_step_that_ends_adversarial_is_taken() -> None:
    """From 1 on the first axis the longest step leads to 1 on the second, which is the normal."""
    x = torch.zeros(4, 2, dtype=torch.float64)
    points, normal = torch.tensor([1.0, 0.0]).to(x).repeat(4, 1), torch.tensor([0.0, 1.0]).to(x).repeat(4, 1)

    def steps(z: Tensor) -> Tensor:
        """Class 1 where the first coordinate exceeds a level, one for each sample; class 0 at x."""
        level = torch.tensor([-1.0, 0.7, 0.8, 2.0]).repeat_interleave(len(z) // 4)
        wrong = (z[:, 0] > level) & (len(z) > 4)
        return torch.stack([(~wrong).to(z.dtype), wrong.to(z.dtype)], 1)

    def rule(search: Any) -> None:
        _move(search)
        expected = [[0.0, 1.0], [0.75, 0.25], [0.875, 0.125], [1.0, 0.0]]
        torch.testing.assert_close(search.rows.points, torch.tensor(expected).to(x))

    within(steps, x, "l2", points, rule, normal=normal)


def test_how_far_probes_and_tangents_reach() -> None:
    """A fiftieth of the distance to x, and four times that."""
    x = torch.zeros(2, 784, dtype=torch.float64)
    points = x + torch.tensor([[0.5], [0.1]])
    model, seen = watched(plane(torch.ones(784, dtype=torch.float64), 60.0))

    def rule(search: Any) -> None:
        seen.clear()
        _probe(search, 400, count())
        probes = torch.cat([part.view(2, -1, 784) for part in seen], 1) - points[:, None]
        reach = 0.02 * (points - x).norm(dim=1)
        torch.testing.assert_close(probes.norm(dim=2).mean(1), reach, rtol=0.01, atol=0)
        seen.clear()
        _tilt(search)
        for tangents in seen:
            torch.testing.assert_close((tangents - points).norm(dim=1), 4 * reach)

    within(model, x, "l2", points, rule)


def test_linf_steps_go_to_a_corner() -> None:
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    points, normal = x + torch.tensor([0.2, 0.1, 0.0, 0.0]).to(x), torch.tensor([[0.1, -0.9, 0.3, 0.0]]).to(x)

    def rule(search: Any) -> None:
        _move(search)
        torch.testing.assert_close(search.rows.points, torch.tensor([[0.7, 0.3, 0.7, 0.5]]).to(x))

    within(plane(torch.tensor([0.0, -1.0, 0.0, 0.0]).to(x), -0.5), x, "linf", points, rule, normal=normal)


SIZE = 100


@pytest.mark.parametrize(("norm", "order", "halvings"), [("l2", 2.0, 10), ("linf", INF, 14)])
@pytest.mark.parametrize(("thickness", "queries"), [(INF, 400), (0.01, 400), (1e-9, 90)])
def test_what_is_asked_step_by_step(
    norm: str, order: float, halvings: int, thickness: float, queries: int
) -> None:
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
def test_samples_without_queries_stop_at_once() -> None:
    """No query beyond the budget, whenever a sample found its start; batch mates change nothing."""
    net, x, y = labeled(linear(3, SIZE).double(), images(4, (SIZE,)))
    for norm in ("l2", "linf"):
        out = hopskipjump(net, x, y, THREATS[norm](INF), queries=130, directions=20, variant="published")
        alone = [
            hopskipjump(net, x[n : n + 1], y[n : n + 1], THREATS[norm](INF), queries=130, directions=20,
                        variant="published", ids=torch.tensor([n]))
            for n in range(4)
        ]  # fmt: skip
        assert out.forwards == sum(one.forwards for one in alone) <= 4 * 132
        assert torch.equal(out.x_adv, torch.cat([one.x_adv for one in alone]))


def test_probes_that_all_succeed_have_no_baseline() -> None:
    """Their mean answer is 1, and less that nothing would be left of them."""
    x = torch.full((1, SIZE), 0.5, dtype=torch.float64)

    def says(z: Tensor) -> Tensor:
        wrong = ((z - x).norm(dim=1) > 1e-9).to(z.dtype)
        return torch.stack([1 - wrong, wrong], 1)

    model, seen = watched(says)
    given = {"starts": images(1, (SIZE,)), "steps": 1, "directions": 30, "variant": "published"}
    hopskipjump(model, x, torch.zeros(1).long(), THREATS["l2"](INF), **given)
    flow = torch.cat(seen[1:])
    point, ways = flow[10], (flow[11:41] - flow[10]).mean(0)
    torch.testing.assert_close(flow[41], point + (point - x[0]).norm() * ways / ways.norm())
