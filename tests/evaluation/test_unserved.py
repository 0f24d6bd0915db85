"""A threat that no attack serves has no accuracy, and no table a worst of all that leaves it out."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv.cli._output import too_low
from fastadv.evaluation import evaluate
from fastadv.evaluation.report import grid
from tests.evaluation.nets import DATA, Threshold
from tests.evaluation.test_report import written

EACH = torch.full((6,), 0.15)
run = partial(evaluate, Threshold(), DATA)


@pytest.mark.parametrize("draws", [1, 3])
def test_what_no_attack_served_is_told_wherever_figures_are(draws: int, tmp_path: Path) -> None:
    table = run("apgd", threat=[fa.Linf(0.15), fa.L0(1)], draws=draws, keep_samples=True)
    why, said = table["apgd L0"].refused, "No robust accuracy is known in L0 1"
    assert (table["apgd Linf"].robust_accuracy, table.unserved) == (0.5, ("L0 1",))
    assert table.to_dict()["worst_cases"] == {"worst of all": None}
    assert table.verdict.startswith("Inconclusive")
    assert "L0 1 (no attack serves it)" in table.verdict
    *_, refused, worst = table.records()
    assert (refused["norm"], refused["radius"], refused["refused"]) == ("l0", 1.0, why)
    assert (refused["accuracy"], worst["accuracy"], worst["95%"]) == (None, None, None)
    assert worst["headline"] == table.headline
    assert table.headline.startswith(said)
    assert f"% APGD L0: not run: {why}\n" in table.to_latex()
    assert [line[:3] for line in table.cells()[3:]] == [["apgd L0", "-", "-"], ["worst of all", "-", "-"]]
    assert too_low(table, {"robust": 0.1}).startswith(
        f"robust accuracy is not known, expected at least 0.1. {said}"
    )
    written(tmp_path, table)
    page = (tmp_path / "r.html").read_text()
    assert (">all attacks<" in page, "nan%" in page, table.unknown in page) == (False, False, True)


SERVED = [
    (fa.Linf(0.2), fa.Linf(0.2), True), (fa.Linf(math.inf), fa.L2(0.2), True),
    (fa.Linf(0.2), fa.Linf(0.3), False), (fa.Linf(EACH), fa.Linf(EACH), True),
    (fa.Linf(EACH), fa.L2(EACH), False), (fa.Linf(0.2, (-1, 1)), fa.Linf(0.2), False),
]  # fmt: skip


def test_no_worst_of_those_that_ran_stands_beside_an_unserved_threat() -> None:
    pgd, bim = (partial(one, threat=fa.Linf(0.15)) for one in (fa.attacks.pgd, fa.attacks.bim))
    attacks = {"pgd": pgd, "bim": bim, "apgd": partial(fa.attacks.apgd, threat=fa.L0(1))}
    table = run(attacks, draws=3, keep_samples=True, indicators=False)
    (drawn,), heat = table.details().values(), grid.heat(table, None, None)
    assert [[line[0] for line in drawn[1:]], heat and heat[0][1:]] == [["none", "pgd", "bim"], ["pgd", "bim"]]
    assert "majority" in table.records()[1]
    assert "majority" not in table.records()[-1]
    assert ["[" in line[2] for line in grid.attacks(table)[1][2:4]] == [True, True]
    assert replace(table, sums={"MAE": torch.ones(6, 2, 1)}).worst_extra == {}


def test_a_refused_row_hides_no_nearest_example() -> None:
    near = partial(fa.attacks.fmn, threat=fa.Linf(math.inf), steps=20)
    weak = partial(fa.attacks.pgd, threat=fa.Linf(0.15), steps=1, step_size=1e-6, random_start=False)
    table = run({"weak": weak, "near": near, "ddn": partial(fa.attacks.ddn, threat=fa.Linf(0.15))})
    assert [bool(row.refused) for row in table.rows] == [False, False, True]
    assert table["weak"].robust_accuracy > table.worst_case == 0.5


@pytest.mark.parametrize(("one", "other", "known"), SERVED)
def test_a_threat_is_served_where_any_attack_ran_in_it(one: fa.Threat, other: fa.Threat, known: bool) -> None:
    told = []
    attacks = {"ddn": partial(fa.attacks.ddn, threat=one), "pgd": partial(fa.attacks.pgd, threat=other)}
    table = run(attacks, indicators=False, on_event=told.append)
    assert table["ddn"].refused
    assert known == (not table.unserved) == (not math.isnan(table.worst_case)) == (table.headline == "")
    assert {name for event in told for name in event["robust_accuracy"]} == {"pgd"}
