"""Attacks that see decisions alone: distances of linear models, their budget, and which points they ask."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import ATTACKS, boundary, hopskipjump, pointwise
from fastadv.attacks.hopskipjump import HALVINGS, SIZES, TILTS
from fastadv.threat import L2, THREATS

from . import halfspaces
from .nets import images, labels, linear, mlp
from .watched import watched

pytestmark = pytest.mark.slow
INF = torch.inf
# those that begin with noise, or are noise
NOISY = [
    (name, norm) for name, entry in ATTACKS.items() if entry.knowledge == "decision" for norm in entry.norms
]


@pytest.mark.parametrize(
    ("run", "norm", "inputs", "box", "factor", "queries"),
    [
        (boundary, "l2", 3072, (-1.0, 2.0), 1.25, 9000),
        (hopskipjump, "l2", 784, (0.0, 1.0), 1.1, 6000),
        (hopskipjump, "linf", 784, (0.0, 255.0), 1.1, 6000),
        (pointwise, "l0", 784, (0.0, 1.0), 4.0, 500),
        (pointwise, "l2", 784, (-1.0, 2.0), 9.0, 500),
    ],
)
def test_the_distance_of_a_linear_model_in_a_mask(
    run: Any, norm: str, inputs: int, box: tuple[float, float], factor: float, queries: int
) -> None:
    """Half of the pixels are saturated; for pointwise, the nearest point moves all coordinates."""
    mask = torch.arange(inputs) % 4 > 0
    model, x, y = halfspaces.problem(inputs, classes=2, size=2, box=box)
    distance, _ = halfspaces.nearest(model, x, y, norm, box=box, mask=mask)
    out = run(model, x, y, THREATS[norm](INF, box), queries=queries, mask=mask)
    assert out.success.all()
    assert torch.equal(out.x_adv[:, ~mask], x[:, ~mask])
    assert (out.distance >= distance * (1 - 1e-4)).all()
    assert (out.distance <= distance * factor + (norm == "l0")).all()


@pytest.mark.parametrize("queries", [1, 30, 163])
@pytest.mark.parametrize(
    ("run", "given", "left"),
    [(boundary, {}, 1), (hopskipjump, {"directions": 10}, TILTS + SIZES + HALVINGS + 1)],
)
def test_the_budget_holds(run: Any, given: Any, left: int, queries: int) -> None:
    """Down to one query. What is left over is less than a step needs, for HopSkipJump besides its probes."""
    model, x, others = linear(3, 784).double(), images(5, (784,)), images(99, (784,), seed=9)
    y = labels(model, x)
    starts = torch.stack([others[labels(model, others) != label][0] for label in y])
    for more in ({}, {"restarts": 2}, {"starts": starts}):
        out = run(model, x, y, L2(INF), queries=queries, **given, **more)
        spent = out.forwards - 2 * 5
        assert spent <= 5 * queries * (2 if "restarts" in more else 1)
        assert "starts" not in more or spent >= 5 * (queries - left)


@pytest.mark.parametrize(("name", "norm"), NOISY)
def test_a_sample_that_no_noise_breaks_stops_no_other(name: str, norm: str) -> None:
    """The model never changes its mind about images whose first pixel is dark."""
    net, x = mlp(inputs=784), images(6, (784,))

    def model(z: Tensor) -> Tensor:
        return torch.where(z[:, :1] < 0.5, torch.tensor([9e9, 0, 0]), net(z))

    x[:, 0] = torch.tensor([0.9, 0.1, 0.9, 0.9, 0.1, 0.9])
    mask = torch.arange(784) > 0
    out = ATTACKS[name].run(model, x, labels(model, x), THREATS[norm](INF), mask=mask, **ATTACKS[name].quick)
    assert out.status.tolist() == [1, 2, 1, 1, 2, 1]
    assert torch.equal(out.x_adv[[1, 4]], x[[1, 4]])


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
    # those of one sample and step share their mean
    assert ((signs @ signs.T / 784).fill_diagonal_(0).abs() < 0.35).all()
