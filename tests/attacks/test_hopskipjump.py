"""HopSkipJump: its estimate of the normal, its steps, its budget, and the distances of linear models."""

import math
import sys
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import hopskipjump
from fastadv.attacks.core.run import run
from fastadv.attacks.hopskipjump import HALVINGS, SIZES, TILTS, _move, _probe, _Rows, _tilt
from fastadv.attacks.methods.start import away
from fastadv.engine import freeze
from fastadv.threat import L2, THREATS

from . import halfspaces
from .nets import images, labels, linear
from .watched import watched

INF = torch.inf


def plane(normal: Tensor, level: float) -> nn.Module:
    """Class 1 where <normal, x> is above the level, and else class 0."""

    class Plane(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            along = z.flatten(1) @ normal.flatten() - level
            return torch.stack([-along, along], 1)

    return Plane()


def within(model: nn.Module, x: Tensor, norm: str, points: Tensor, rule: Any, **rows: Tensor) -> None:
    """Run `rule` of a search whose points are these."""

    def started(search: Any) -> None:
        search.rows.points = points.clone()
        search.rows.shift = torch.zeros(len(x), dtype=x.dtype)
        search.rows.normal = away(search)
        vars(search.rows).update(rows)
        rule(search)

    run(
        model, x, torch.zeros(len(x), dtype=torch.long), THREATS[norm](INF), started, rows=_Rows, minimum=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "inputs", "box"), [("l2", 784, (0.0, 1.0)), ("linf", 784, (0.0, 255.0))])
def test_the_distance_of_a_linear_model(norm: str, inputs: int, box: tuple[float, float]) -> None:
    """Half of the pixels are saturated, which makes the answers of probes around the boundary one-sided."""
    model, x, y = halfspaces.problem(inputs, classes=2, size=3, box=box)
    distance, _ = halfspaces.nearest(model, x, y, norm, box=box)
    out = hopskipjump(model, x, y, THREATS[norm](INF, box), queries=8 * inputs)
    assert out.success.all()
    assert (out.distance >= distance * (1 - 1e-4)).all()
    assert (out.distance <= distance * 1.1).all()


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
def test_what_is_known_of_the_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In L2 the way from x, in Linf the last estimate, which the next one only turns."""
    page, known = sys.modules["fastadv.attacks.hopskipjump"], []

    def spy(search: Any, *rest: Any) -> None:
        known.append((search.rows.normal, away(search)))
        _probe(search, *rest)

    monkeypatch.setattr(page, "_probe", spy)
    model, x = linear(3, 784).double(), images(2, (784,))
    for norm in ("l2", "linf"):
        known.clear()
        hopskipjump(model, x, labels(model, x), THREATS[norm](INF), queries=1000)
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

    class Steps(nn.Module):
        """Class 1 where the first coordinate exceeds a level, one for each sample; class 0 at x."""

        def forward(self, z: Tensor) -> Tensor:
            level = torch.tensor([-1.0, 0.7, 0.8, 2.0]).repeat_interleave(len(z) // 4)
            wrong = (z[:, 0] > level) & (len(z) > 4)
            return torch.stack([(~wrong).to(z.dtype), wrong.to(z.dtype)], 1)

    def rule(search: Any) -> None:
        _move(search)
        expected = [[0.0, 1.0], [0.75, 0.25], [0.875, 0.125], [1.0, 0.0]]
        torch.testing.assert_close(search.rows.points, torch.tensor(expected).to(x))

    within(Steps(), x, "l2", points, rule, normal=normal)


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


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("queries", [1, 30, 163])
def test_the_budget_holds(norm: str, queries: int) -> None:
    """Down to one query; what is left over is less than a step needs besides its probes."""
    model, x = linear(3, 784).double(), images(5, (784,))
    y = labels(model, x)
    for more in ({}, {"restarts": 2}):
        out = hopskipjump(model, x, y, THREATS[norm](INF), queries=queries, directions=10, **more)
        spent = out.forwards - 2 * 5
        assert spent <= 5 * queries * more.get("restarts", 1)
        if queries > 50 and not more:
            assert spent > 5 * (queries - TILTS - SIZES - HALVINGS - 1)


def test_nothing_outside_the_box_is_asked() -> None:
    """Nor anything that differs outside the mask."""
    net, x = linear(3, 784), images(3, (784,), dtype=torch.float32).round()
    mask = torch.arange(784) < 600
    model, seen = watched(net)
    out = hopskipjump(model, x, labels(net, x), L2(INF), queries=400, mask=mask)
    assert out.success.all()
    asked = torch.cat(seen)
    assert ((asked >= 0) & (asked <= 1)).all()
    assert (asked[:, None, 600:] == x[:, 600:]).all(2).any(1).all()


@pytest.mark.slow
def test_directions_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every block of every step, for every sample, seed and restart."""
    x = torch.full((2, 784), 0.5)
    model, seen = watched(lambda z: torch.stack([0.7 - z[:, 0], 0 * z[:, 0]], 1))
    monkeypatch.setattr(sys.modules["fastadv.attacks.hopskipjump"], "BLOCK", 16 * 784)

    def probes(**options: Any) -> Tensor:
        seen.clear()
        starts, y = torch.ones_like(x), torch.zeros(2, dtype=torch.long)
        threat = L2(INF, (-9.0, 9.0))
        hopskipjump(model, x, y, threat, queries=160, directions=32, starts=starts, **options)
        asked = [batch.view(2, 16, 784) for batch in seen if len(batch) == 32]
        return torch.stack([batch - batch.mean(1, keepdim=True) for batch in asked])

    base = probes()
    assert len(base) >= 4
    others = probes(seed=1, restarts=2), probes(ids=torch.tensor([5, 6]))
    signs = torch.cat([asked.sign().flatten(0, 2) for asked in (base, *others)])
    agree = (signs @ signs.T / 784).fill_diagonal_(0)
    assert (agree.abs() < 0.3).all()


@pytest.mark.slow
def test_the_search_in_bfloat16_sees_its_probes() -> None:
    """They are as far from one another as bfloat16 can tell."""
    model, x, y = halfspaces.problem(784, classes=3, size=4)
    plain = hopskipjump(model, x, y, L2(INF), queries=2000)
    coarse = hopskipjump(freeze(model, "bf16"), x, y, L2(INF), queries=2000)
    assert coarse.success.all()
    assert (coarse.distance <= plain.distance * 1.3).all()
