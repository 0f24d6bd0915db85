"""At exactly the radius: a point on the surface of a ball lies in it, whoever asks."""

from functools import partial
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.evaluation import Curve, evaluate
from fastadv.evaluation.report import chart, grid
from fastadv.evaluation.row import groups
from fastadv.threat import THREATS

LEVELS = [8 / 255, 16 / 255, 0.1, 1 / 3]
RADII = {"linf": LEVELS, "l2": LEVELS, "l1": LEVELS, "l0": [1, 3, 0.29 * 100 - 20]}
X = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
X[:, 0] = 0.0  # where adding a radius rounds nothing away
Y, AWAY = torch.zeros(64, dtype=torch.int64), torch.randn(X.shape, generator=torch.Generator().manual_seed(1))


def moved(x: Tensor) -> Tensor:
    """Class 0 for these very images, 1 for all others."""
    known = (x[:, None] == X).flatten(2).all(2).any(1, keepdim=True)
    return torch.cat([known, ~known], 1).float()


def surface(model: Any, x: Tensor, y: Tensor, *, ids: Tensor, threat: fa.Threat, radius: float) -> Tensor:
    """Points of the surface, in a direction of each sample's own, by the radius as float32 has it."""
    radii = torch.full_like(ids, radius, dtype=x.dtype)
    return threat.with_radius(radii).project(x + 9 * AWAY.abs()[ids], x)


@pytest.mark.parametrize(("norm", "radius"), [(norm, radius) for norm in THREATS for radius in RADII[norm]])
def test_all_agree_on_the_surface(norm: str, radius: float) -> None:
    ball, at = THREATS[norm](radius), partial(surface, radius=radius)
    near = partial(at, threat=ball.with_radius(inf))
    near.minimum = True  # type: ignore[attr-defined]
    distance = ball.distance(x_adv := at(None, X, Y, ids=torch.arange(64), threat=ball), X)
    assert ball.contains(x_adv, X).all()
    assert distance.min() > radius * (1 - 1e-4), "on the surface"
    run, attacks = partial(evaluate, moved, (X, Y), indicators=False), {"budget": partial(at, threat=ball)}
    table = run({**attacks, "near": near}, keep_samples=True)
    worst = run({"fgsm": partial(fa.attacks.fgsm, threat=ball), "near": near}).worst_case  # of the nearest
    assert table["budget"].robust_accuracy == table.worst_case == worst == 0
    curve = partial(fa.accuracy_against_radius, moved, (X, Y))
    for known in (partial(curve, minimum_norm=near), partial(Curve.from_distances, distance)):
        assert known(radii=[0.9 * radius, radius]).accuracy.tolist() == [1, 0]
    steps, tried = curve(minimum_norm=near), curve(lambda r: attacks["budget"], [radius])
    assert (steps.at(0.9 * radius), steps.at(radius), tried.at(radius)) == (1, 0, 0)
    drawn = chart.chart(table, groups(table.rows)[0], {"budget": tried}, None)
    assert {name: line.at(radius) for name, line in drawn.curves.items()} == {"all attacks": 0, "budget": 0}
    heads, lines = grid.heat(table, None, ball)
    assert lines[0][2] == [1, 0, 0, 0], heads
