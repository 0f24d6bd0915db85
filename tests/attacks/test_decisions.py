"""Attacks that see decisions alone: linear models, budgets, draws; the pointwise attack by hand."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks import ATTACKS, boundary, hopskipjump, pointwise
from fastadv.attacks.hopskipjump import HALVINGS, SIZES, TILTS
from fastadv.attacks.pointwise import _salt_and_pepper
from fastadv.engine import freeze
from fastadv.threat import L0, L2, THREATS

from . import halfspaces
from .nets import images, labels, linear, mlp
from .watched import watched

pytestmark = pytest.mark.slow
INF = torch.inf


@pytest.mark.parametrize("run", [boundary, hopskipjump])
def test_the_search_in_bfloat16_finds_as_much(run: Any) -> None:
    """Steps and probes are as far from one another as the search can tell."""
    model, x, y = halfspaces.problem(784, classes=2, size=4)
    x = x.bfloat16().float()
    plain, out = (run(net, x, y, L2(INF), queries=2000) for net in (model, freeze(model, "bf16")))
    assert out.success.all()
    # how far from the boundary the twin may take one side for the other: it rounds weights and points by half
    # of eps each
    weight, eps = model[1].weight.detach(), torch.finfo(torch.bfloat16).eps
    unsure = eps * (x.flatten(1) @ weight.abs().sum(0)) / (weight[1] - weight[0]).norm()
    assert (out.distance <= (plain.distance + 2 * unsure) * 1.15).all()


@pytest.mark.parametrize("run", [boundary, hopskipjump])
def test_each_sample_looks_for_a_start_until_it_has_one(run: Any) -> None:
    """One noise in a hundred is one; the last sample, whose first pixel the mask holds, has none."""
    x, mask = torch.full((6, 784), 0.5), torch.ones(6, 784, dtype=torch.bool)
    mask[5, 0] = False

    def model(z: Tensor) -> Tensor:
        return torch.stack([0.99 - z[:, 0], 0 * z[:, 0]], 1)

    out = run(model, x, torch.zeros(6).long(), L2(INF), mask=mask, queries=1200)
    assert out.status.tolist() == [1] * 5 + [2]
    assert torch.equal(out.x_adv[5], x[5])


@pytest.mark.parametrize(
    ("run", "given", "size"),
    [(boundary, {"queries": 60}, 10), (hopskipjump, {"queries": 160, "directions": 32}, 16)],
)
def test_draws_are_fresh(run: Any, given: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every block of every step, for every sample, seed and restart."""
    x = torch.full((2, 784), 0.5)
    model, seen = watched(lambda z: torch.stack([0.7 - z[:, 0], 0 * z[:, 0]], 1))
    monkeypatch.setattr(sys.modules["fastadv.attacks.hopskipjump"], "BLOCK", 16 * 784)

    def ways(**options: Any) -> Tensor:
        seen.clear()
        starts, y, threat = torch.ones_like(x), torch.zeros(2, dtype=torch.long), L2(INF, (-9.0, 9.0))
        run(model, x, y, threat, starts=starts, **given, **options)
        asked = [batch.view(2, size, 784)[:, :-1] for batch in seen if len(batch) == 2 * size]
        return torch.stack([batch - batch.mean(1, keepdim=True) for batch in asked])

    base = ways()
    assert len(base) >= 4
    others = ways(seed=1, restarts=2), ways(ids=torch.tensor([5, 6]))
    signs = torch.cat([asked.sign().flatten(0, 2) for asked in (base, *others)])
    # draws of one sample and step share their mean
    assert ((signs @ signs.T / 784).fill_diagonal_(0).abs() < 0.35).all()


# attacks whose budget are queries, what they are given, and how many of the queries a step may leave
BUDGETS: list[tuple[str, str, dict[str, Any], int]] = [
    ("boundary", "l2", {}, 1),
    ("hopskipjump", "l2", {"directions": 10}, TILTS + SIZES + HALVINGS + 1),
    ("pointwise", "l0", {}, 1),
    ("pointwise", "l2", {}, 1),
    ("nes", "linf", {"directions": 10}, 21),
    ("spsa", "linf", {"directions": 10}, 21),
    ("square", "linf", {}, 0),
    ("sparse_rs", "l0", {}, 0),
]


@pytest.mark.parametrize(("name", "norm", "given", "left"), BUDGETS)
def test_a_budget_of_queries_is_spent_and_held(name: str, norm: str, given: Any, left: int) -> None:
    """Down to one query, where the attack can. What is left over is less than a step needs."""
    model, x, others = linear(3, 784).double(), images(5, (784,)), images(99, (784,), seed=9)
    y, entry = labels(model, x), ATTACKS[name]
    starts = torch.stack([others[labels(model, others) != label][0] for label in y])
    ways = [{}, {"restarts": 2}, {"starts": starts}] if entry.takes("starts") else [{}]
    threat = THREATS[norm](INF if entry.minimal else 1e-6)
    fewest = 22 if name in ("nes", "spsa") else 1
    most = 30 if name == "pointwise" else 163  # which finds no more to better
    for queries in (fewest, 30, most):
        for more in ways:
            out = entry.run(model, x, y, threat, queries=queries, **given, **more)
            spent, runs = out.forwards - 2 * 5, 2 if "restarts" in more else 1
            assert spent <= 5 * queries * runs
            assert spent >= 5 * (queries - left) or (entry.knowledge == "decision" and "starts" not in more)


class Needs(nn.Module):
    """Class 1 where at least `count` of the coordinates `index` exceed 1/2, and else class 0."""

    def __init__(self, index: Tensor, count: int) -> None:
        super().__init__()
        self.index, self.count = index, count

    def forward(self, z: Tensor) -> Tensor:
        raised = (z.flatten(1)[:, self.index] > 0.5).sum(1) - (self.count - 0.5)
        return torch.stack([-raised, raised], 1)


def zeros(size: int, *shape: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(size, *shape), torch.zeros(size, dtype=torch.long)


@pytest.mark.parametrize(
    ("index", "count", "queries", "started"),
    [(range(784), 40, 250, False), ((3, 100, 101, 783), 4, 400, False), ((5, 700), 2, 120, True)],
)
def test_the_coordinates_that_the_model_needs(index: Any, count: int, queries: int, started: bool) -> None:
    """Exactly so many in L0. From 784 to the 2 that are needed takes far fewer queries than coordinates."""
    x, y = zeros(4, 1, 28, 28)
    model, given = Needs(torch.tensor(index), count), {"starts": torch.ones_like(x)} if started else {}
    out = pointwise(model, x, y, L0(INF), queries=queries, **given)
    assert out.distance.tolist() == [count] * 4
    assert (out.x_adv.flatten(1)[:, index] == 1).all() or count < len(index)
    if queries == 250:  # in L2 each comes close to one half
        out = pointwise(model, x, y, L2(INF), queries=600)
        assert (out.distance <= 0.5 * count**0.5 * 1.05).all()


def test_one_coordinate_cannot_be_bettered() -> None:
    x, y = zeros(2, 784)
    out = pointwise(Needs(torch.arange(784), 1), x, y, L0(INF), queries=5000, restarts=4)
    assert out.distance.tolist() == [1, 1]
    assert out.forwards < 2 * 4 * 200


def test_starts_of_the_caller() -> None:
    """They cost one query for all runs. In L2 their changes shrink from where they are."""
    x, y = zeros(2, 196)
    starts, index = torch.full_like(x, 0.8), torch.arange(30)
    out = pointwise(Needs(index, 30), x, y, L2(INF), queries=800, starts=starts)
    assert (out.distance <= 0.51 * 30**0.5).all()
    out = pointwise(Needs(index, 30), x, y, L0(INF), queries=400, starts=starts)
    assert out.distance.tolist() == [30, 30]
    assert (out.x_adv[:, :30] == 0.8).all()


SIZE = 30


def described(wrong: Callable[[Tensor], bool], x: Tensor, point: Tensor, bisects: bool) -> list[Tensor]:
    """The points that it asks from `point` [D] on: a random order is the next random one of those untried."""
    asked: list[Tensor] = []
    seed = rng.derive(0, "pointwise", 0)

    def ask(index: int, value: Tensor) -> bool:
        nonlocal point
        asked.append(point.clone())
        asked[-1][index] = value
        met = wrong(asked[-1])
        point = asked[-1].clone() if met else point
        return met

    def chosen(untried: list[int]) -> int:
        keys = rng.uniform(SIZE, seed, torch.tensor([0]), len(asked))[0]
        return max(untried, key=lambda index: float(keys[index]))

    def changed() -> list[int]:
        return (point != x).nonzero().flatten().tolist()

    untried = changed()
    while untried:
        index = chosen(untried)
        untried = changed() if ask(index, x[index]) else [other for other in untried if other != index]
    improved = bisects
    while improved:
        improved, untried = False, changed()
        while untried:
            index = chosen(untried)
            failed, met = x[index], ask(index, x[index])
            improved |= met
            for _ in range(0 if met else 10):
                middle = (point[index] + failed) / 2
                met = ask(index, middle)
                failed, improved = failed if met else middle, improved | met
            untried.remove(index)
    return asked


@pytest.mark.parametrize("norm", ["l0", "l2"])
def test_each_query_is_that_of_the_description(norm: str) -> None:
    net, several, others = mlp(inputs=SIZE), images(5, (SIZE,)), images(99, (SIZE,), seed=9)
    count = 0
    for x in several.split(1):
        y = labels(net, x)
        start = others[labels(net, others) != y][:1]
        model, seen = watched(net)
        pointwise(model, x, y, THREATS[norm](INF), starts=start, restarts=1, variant="published")
        asked = described(
            lambda point, y=y: bool(labels(net, point[None]) != y), x[0], start[0].clone(), norm == "l2"
        )
        torch.testing.assert_close(torch.cat(seen[2:-1]), torch.stack(asked))
        count += len(asked)
    assert count > (160 if norm == "l0" else 350)


def test_starts_are_salt_and_pepper_of_growing_shares() -> None:
    x = torch.full((2, 1000), 0.5)
    search: Any = SimpleNamespace(x=x, threat=L0(INF), ids=torch.arange(2), seed=0, restart=0)
    for draw, share in ((0, 0.01), (49, 0.5), (99, 1.0), (149, 0.5)):
        noise = _salt_and_pepper(search, draw)[:, 0]
        moved = (noise != x).float().mean(1)
        torch.testing.assert_close(moved, torch.full((2,), share), rtol=0, atol=4 * (share / 4000) ** 0.5)
        assert set(noise.unique().tolist()) - {0.5} == {0.0, 1.0}
        assert not torch.equal(noise[0], noise[1])
