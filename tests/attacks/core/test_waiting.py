"""A stage of APGD never waits for a GPU: on the meta device a tensor has no values to be read."""

from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks.core.plan import Plan
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.search import Search
from fastadv.attacks.methods.auto_pgd import Ascents, Dense, Sparse

SIZE = 6
META = torch.device("meta")


@pytest.mark.slow
@pytest.mark.parametrize(
    "threat", [fa.Linf(0.1).resized(torch.rand(SIZE, device=META)), fa.L2(0.5), fa.L1(2.0)], ids=type
)
def test_no_move_of_apgd_reads_a_value(threat: fa.Threat) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    frozen = fa.freeze(net.eval().to(META))
    frozen.settled = True  # the check reads what the twins say
    x, y = torch.rand(SIZE, 2, 8, 8, device=META), torch.zeros(SIZE, dtype=torch.long, device=META)
    options: dict[str, Any] = {"rule": lambda search: None, "rows": Ascents, "restarts": 2, "seed": 0}
    plan = Plan(minimum=False, loss="ce", stop_early=False, **options)
    problem, index = Problem(x, y, threat, targets=None, ids=y), torch.arange(SIZE, device=META)
    search = Search(frozen, problem, index, Record.start(x), plan, 0)
    search._first = False  # the first gradient of all is read, to see whether it is 0 at the edge of the box
    stages: list[Any] = [Dense(search, 30, 0.75)]
    if threat.norm == "l1":
        stages = [Sparse(search, factor, 9, started=factor < 3) for factor in (3.0, 2.0, 1.0)]
    with torch.no_grad():
        for stage in stages:
            stage.run(search.start())
    assert search.classifier.forwards > search.classifier.backwards > 20 * SIZE
