"""A threat is what it does: two of one name are two in every figure and text, and two that are equal one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import AttackResult
from fastadv.errors import InputError
from fastadv.evaluation import Table, _rows, evaluate
from fastadv.evaluation.row import groups
from fastadv.measure import outcome
from fastadv.measure.threats import threat_as_json
from tests.data.sets import random_target, toy_base, toy_model
from tests.evaluation.nets import DATA, Threshold, nearest
from tests.evaluation.test_report import written
from tests.refusals import refuses

NET, UNIT = Threshold(), fa.Linf(1.0, (-1.0, 1.0))
Make = Callable[[float], fa.Threat]
through = partial(fa.Through, ball=UNIT, still=torch.zeros_like)


@cache  # a class in a function is itself alone
def projected(budget: float) -> fa.Threat:
    class Own(fa.Linf):
        def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
            return x + (x_adv - x).clamp(-budget, budget)

    return Own(1.0)


class Kept(fa.Linf):
    """A norm with a budget that is no field."""


def kept(budget: float) -> fa.Threat:
    object.__setattr__(threat := Kept(1.0), "budget", budget)
    return threat


def of_one_line(budget: float) -> fa.Threat:
    both = (lambda x, t: (x + 0.15 * t).clamp(0, 1)), (lambda x, t: (x + 0.3 * t).clamp(0, 1))
    return through(both[budget > 0.2])


MAKES: dict[str, Make] = {
    "own": projected, "kept": kept, "one line": of_one_line,
    "scaled": lambda budget: fa.Scaled(torch.full((1, 1, 1), budget)),
    "enclosed": lambda budget: through(lambda x, t: (x + budget * t).clamp(0, 1)),
    "still": lambda budget: through(torch.maximum, still=(torch.clone, torch.zeros_like)[budget > 0.2]),
    "ball": lambda budget: through(torch.add, ball=projected(budget)),
    "inherited": lambda budget: fa.Linf(1.0) if budget > 0.2 else Kept(1.0),
    "box": lambda budget: fa.Linf(0.3, (0.0, 1.0) if budget > 0.2 else (-9.0, 9.0)),
    "patch": lambda budget: fa.Patch((1, 1), "any", seed=int(10 * budget)),
    "moved": lambda budget: fa.Moved(1, 100 * budget),
}  # fmt: skip
KINDS = {kind: cache(make) for kind, make in MAKES.items()}
UNKNOWN = {"own": "a class in a function", "ball": "a class in a function", "one line": "", "enclosed": ""}


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is grouped here are claims, taken as they come."""
    monkeypatch.setattr(outcome, "is_own", lambda attack: False)


def reaching(
    model: Any, x: Tensor, y: Tensor, ids: Tensor, *, threat: fa.Threat, budget: float = inf
) -> AttackResult:
    far = ids[(x.flatten(1)[:, 0] - 0.5).abs() + 0.01 > budget]
    return replace(nearest(model, x, y, ids=ids, spare=far.tolist()), threat=threat)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_budgets_of_one_name_are_two_threats_in_tables_and_folders(kind: str, tmp_path: Path) -> None:
    make = KINDS[kind]
    attacks = {
        name: partial(reaching, threat=make(budget), budget=budget)
        for name, budget in (("small", 0.15), ("large", 0.35), ("again", 0.35))
    }
    folder = {"run_dir": tmp_path / "run", "identity": "1"}
    for more in ({"batch_size": 6}, folder, {**folder, "resume": True}):
        table = evaluate(NET, DATA, attacks, **{"batch_size": 2, "indicators": False} | more)
        small, large, again = table.rows
        one, other = groups(table.rows)
        assert ([row.name for row in one.rows], one.right(table.rows)) == (["small"], 3)
        assert ([row.name for row in other.rows], other.right(table.rows)) == (["large", "again"], 1)
        assert large.within == again.within != small.within
        assert f"6 samples, {small.within}, {large.within}; accuracy" in str(table)
        names = [row["norm"] for row in table.to_dict()["attacks"]]
        assert names[0] != names[1] == names[2]
    page = written(tmp_path, table, bounds=torch.ones(6)).text
    assert "proved to" not in page  # bounds are of one of both
    assert f"within {small.within}: 3 of 6 samples stay correct under small." in page
    assert f"within {large.within}: 1 of 6 samples stay correct under large and again." in page
    one = evaluate(NET, DATA, {"large": attacks["large"], "again": attacks["again"]}, indicators=False)
    assert (len(groups(one.rows)), one["large"].apart) == (1, "")
    assert make(0.35).metric == make(0.35).take(torch.tensor([0])).metric != make(0.15).metric

    def resumed(budget: float) -> Table:
        known = {"one": partial(reaching, threat=make(budget), budget=0.2)}
        return evaluate(NET, DATA, known, run_dir=tmp_path / "one", resume=True)

    if kind in UNKNOWN:
        return refuses(f"identity: expected a text.*{UNKNOWN[kind] or 'a lambda'}", resumed, 0.15)
    first, again = resumed(0.15), resumed(0.15)
    assert (first.verdict, first["one"].within) == (again.verdict, again["one"].within)
    refuses(r"the run that wrote it, got one with another attacks.one.threat", resumed, 0.35)


def test_no_name_makes_one_threat_of_two_or_two_of_one() -> None:
    attacks = {name: partial(reaching, threat=through(torch.add, name=name)) for name in "ab"}
    table = evaluate(NET, DATA, attacks, indicators=False)
    assert [len(group.rows) for group in groups(table.rows)] == [2]
    attacks = {f"{budget}": partial(reaching, threat=projected(budget)) for budget in (0.1, 0.2)}
    for attack in attacks.values():
        attack.title = "PGD"
    table = evaluate(NET, DATA, attacks, indicators=False)
    assert [row.within for row in table.rows] == ["Own 1 (0.1)", "Own 1 (0.2)"]
    maps = {"a": through(torch.add), "b": through(torch.add, box=(-9.0, 9.0)), "c": through(torch.maximum)}
    attacks = {name: partial(reaching, threat=replace(each, name="map")) for name, each in maps.items()}
    table = evaluate(NET, DATA, attacks, indicators=False)
    assert [row.within for row in table.rows] == ["map (a)", "map (b)", "map (c)"]


def test_what_no_name_tells_is_itself_alone() -> None:
    for make in (lambda: through(lambda x, t: x + t), lambda: projected.__wrapped__(0.1)):
        one, other = make(), make()
        assert one.metric == one.resized(0.1).metric != other.metric
        assert one.same(one.resized(one.radius))
        assert not any(map(one.same, (one.resized(0.1), other)))


def test_a_map_that_another_process_judged_in_is_the_one_that_was_asked_for() -> None:
    asked = through(lambda x, t: x + t)
    *kept, metric = threat_as_json(asked)
    parts = [SimpleNamespace(notes={"threat": [*kept, known]}) for known in ("another process's", metric)]
    assert _rows._threat(parts, asked, False).metric == asked.metric
    assert _rows._threat(parts, through(torch.add), False) is None


@pytest.mark.parametrize("kind", ["scaled", "enclosed", "still", "own", "kept", "inherited", "moved"])
def test_distances_over_one_budget_are_none_over_another(kind: str) -> None:
    worst = []
    for other in (0.35, 0.15):
        near = partial(reaching, threat=KINDS[kind](0.15).resized(0.25), budget=0.15)
        least = partial(reaching, threat=KINDS[kind](other).resized(inf))
        worst.append(evaluate(NET, DATA, {"near": near, "least": least}).worst_case)
    assert worst == [3 / 6, 2 / 6]
    x, y = DATA.x[:4], DATA.y[:4]
    out = reaching(NET, x, y, torch.arange(4), threat=projected(0.3))
    assert fa.attacks.indicators(NET, x, y, projected(0.3), results={"own": out})
    with pytest.raises(InputError, match="results: expected one of an attack in"):
        fa.attacks.indicators(NET, x, y, projected(0.2), results={"own": out})


@pytest.mark.slow
def test_no_run_goes_on_in_another_budget(tmp_path: Path) -> None:
    model, data = toy_model(), toy_base(8)

    def construct(threat: fa.Threat) -> object:
        return random_target(model, data, threat=threat, steps=1, out_dir=tmp_path)

    construct(kept(0.15)), construct(kept(0.15))
    refuses(r"run that wrote it, got one with another (metric|threat)", construct, kept(0.35))
