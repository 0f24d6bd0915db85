"""A step of an attack never waits for a GPU: on the meta device a tensor has no values to be read."""

from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks.core.criterion import OutsideTopK, WrongBy
from fastadv.attacks.core.plan import Plan
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.search import Search
from fastadv.attacks.methods.ascent import ascent
from fastadv.attacks.methods.auto_pgd import Ascents, Dense, Sparse
from fastadv.attacks.mim import Momentum, _Rows

SIZE = 6
META = torch.device("meta")
THREATS = {
    "linf": fa.Linf(0.1),
    "l2": fa.L2(0.5),
    "l1": fa.L1(2.0),
    "l0": fa.L0(5),
    "own radii": fa.Linf(0.1).resized(torch.rand(SIZE, device=META)),
}


def settled() -> fa.Frozen:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).eval()
    frozen = fa.freeze(net.to(META))
    frozen._settled = True  # the check reads what the twins say
    return frozen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threat", "direction", "options"),
    [
        *((threat, Momentum(0.9), {}) for threat in THREATS),
        ("linf", None, {}),
        ("linf", None, {"criterion": WrongBy(0.1)}),
        ("linf", None, {"criterion": OutsideTopK(2)}),
        ("linf", None, {"targets": True}),
        ("linf", None, {"mask": torch.ones(SIZE, 2, 8, 8, dtype=torch.bool, device=META)}),
    ],
    ids=[*THREATS, "gradient", "wrong by", "outside top k", "targets", "mask"],
)
def test_no_step_reads_a_value(threat: str, direction: Any, options: dict[str, Any]) -> None:
    x, y = torch.rand(SIZE, 2, 8, 8, device=META), torch.zeros(SIZE, dtype=torch.long, device=META)
    given = {"targets": None, **options}
    if given["targets"]:
        given["targets"] = y
    rule = ascent(5, 2.0 if threat == "l0" else 0.01, False, direction)
    search = over(Problem(x, y, THREATS[threat], ids=y, **given), _Rows)
    with torch.no_grad():
        rule(search)
    assert search.classifier.backwards == 5 * SIZE


def over(problem: Problem, rows: Any) -> Search:
    index = torch.arange(SIZE, device=META)
    plan = Plan(
        minimum=False, loss="ce", stop_early=False, rule=lambda search: None, rows=rows, restarts=2, seed=0
    )
    return Search(settled(), problem, index, Record.start(problem.x), plan, 0)


@pytest.mark.slow
@pytest.mark.parametrize("threat", ["linf", "l2", "own radii", "l1"])
def test_no_move_of_apgd_reads_a_value(threat: str) -> None:
    x, y = torch.rand(SIZE, 2, 8, 8, device=META), torch.zeros(SIZE, dtype=torch.long, device=META)
    search = over(Problem(x, y, THREATS[threat], targets=None, ids=y), Ascents)
    stages = [Dense(search, 30, 0.75)]
    if threat == "l1":
        stages = [Sparse(search, factor, 9, started=factor < 3) for factor in (3.0, 2.0, 1.0)]
    with torch.no_grad():
        for stage in stages:
            stage.run(search.start())
    assert search.classifier.forwards > search.classifier.backwards > 20 * SIZE
