"""Attacks of an evaluation: names, functions and dictionaries, with the threat said once."""

import math
from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from fastadv.measure.attacks import named
from fastadv.measure.bound import bound
from tests.evaluation import nets
from tests.refusals import refuses

DIGITS = fa.data.load("digits", "test")
MODEL = fa.models.create("softmax", shape=(1, 8, 8), classes=10, seed=0)
DATA = DIGITS.x[:12], MODEL(DIGITS.x[:12]).argmax(1)
BALL = fa.Linf(0.02)
OWN = partial(fa.attacks.fgsm, threat=BALL)


class Asks:
    """An attack as an object, without ids, that takes the threat."""

    def __call__(self, model, x, y, threat):
        return fa.attacks.fgsm(model, x, y, threat)


def asks(model, x, y, threat=None):
    return Asks()(model, x, y, threat)


@pytest.mark.parametrize(
    ("attacks", "names"),
    [
        ("fgsm", ["fgsm"]),
        (fa.attacks.fgsm, ["fgsm"]),
        (["fgsm", partial(fa.attacks.bim, steps=2)], ["fgsm", "bim"]),
        ({"first": "fgsm", "second": partial(fa.attacks.fgsm, restarts=1)}, ["first", "second"]),
        ({"own": OWN, "given": "fgsm"}, ["own", "given"]),
        ({"given": fa.attacks.fgsm, "own": OWN}, ["given", "own"]),
        ({"given": "fgsm", "own": lambda *batch, ids: OWN(*batch, ids=ids)}, ["given", "own"]),
        ([asks, Asks()], ["asks", "Asks"]),
        ({"plain": lambda m, a, b: asks(m, a, b, BALL), "given": "fgsm"}, ["plain", "given"]),
    ],
)
def test_names_and_functions_take_the_threat(attacks: Any, names: list[str]) -> None:
    table = fa.evaluate(MODEL, DATA, attacks, threat=BALL, indicators=False, batch_size=5)
    assert [row.name for row in table.rows] == names
    wanted = fa.evaluate(MODEL, DATA, {"fgsm": OWN}, indicators=False)["fgsm"]
    for row in table.rows:
        of_bim = row.attack == "bim"
        assert of_bim or (row.broken.equal(wanted.broken) and row.distance.equal(wanted.distance))


def test_several_threats_have_a_row_each_and_a_union() -> None:
    """Of four right samples in six L∞ breaks the first, L2 the second."""

    def picky(model: Any, x: Any, y: Any, threat: Any, *, ids: Any) -> Any:
        spare = {"linf": [1, 2, 3], "l2": [0, 2, 3]}[threat.norm]
        return replace(nets.nearest(model, x, y, ids=ids, spare=spare), threat=threat)

    options = {"threat": [fa.Linf(0.45), fa.L2(0.45)], "indicators": False}
    table = fa.evaluate(nets.Threshold(), nets.DATA, {"a": picky, "b": picky}, **options)
    assert [row.name for row in table.rows] == ["a Linf", "a L2", "b Linf", "b L2"]
    assert [row.robust_accuracy for row in table.rows] == [0.5] * 4
    shares = {"worst in L∞ 0.45": 0.5, "worst in L2 0.45": 0.5, "union": pytest.approx(2 / 6)}
    assert table.worst_cases == table.to_dict()["worst_cases"] == shares
    assert [line[:2] for line in table.cells()[-2:]] == [["worst in L2 0.45", "50.0%"], ["union", "33.3%"]]
    assert [*fa.evaluate(nets.Threshold(), nets.DATA, picky, **options).worst_cases] == ["union"]


def test_several_threats_are_those_of_as_many_calls() -> None:
    threats = [BALL, fa.L2(0.2), fa.Linf(0.01)]
    table = fa.evaluate(MODEL, DATA, "pgd", threat=threats, indicators=False)
    assert [row.name for row in table.rows] == ["pgd Linf 0.02", "pgd L2", "pgd Linf 0.01"]
    for row, threat in zip(table.rows, threats, strict=True):
        alone = fa.evaluate(MODEL, DATA, "pgd", threat=threat, indicators=False)["pgd"]
        assert row.broken.equal(alone.broken)
    for wrong, says in (
        ([], "threat: expected"),
        ([BALL, 0.1], "threat: expected"),
        ([BALL] * 2, "attacks: "),
        ([BALL, fa.Linf(torch.full((12,), 0.1))], "threat: expected one radius .*pass a dict"),
    ):
        refuses(says, fa.evaluate, MODEL, DATA, "pgd", threat=wrong)


def test_text_means_what_a_command_means_by_it() -> None:
    """Arguments, a threat of its own, and what an attack leaves open; the names of rows are the text."""
    by_text = named(["pgd:steps=3,loss=dlr", "fmn:norm=l2,steps=4", "lbfgs"], BALL)
    pgd, fmn, lbfgs = by_text.values()
    assert [*by_text] == ["pgd:steps=3,loss=dlr", "fmn:norm=l2,steps=4", "lbfgs"]
    assert [bound(pgd, name) for name in ("steps", "loss", "threat")] == [3, "dlr", BALL]
    assert bound(fmn, "threat").same(fa.L2(math.inf))
    assert (bound(lbfgs, "threat"), bound(lbfgs, "steps")) == (BALL, 40)
    texts = ["autoattack:version=quick,radius=0.02", "tests.measure.test_attacks:asks:radius=0.02"]
    auto = partial(fa.attacks.autoattack, threat=BALL, version="quick")
    table = fa.evaluate(MODEL, DATA, texts, indicators=False)
    for row, attack in zip(table.rows, [auto, partial(asks, threat=BALL)], strict=True):
        assert row.broken.equal(fa.evaluate(MODEL, DATA, [attack], indicators=False).rows[0].broken)
    assert table.rows[1].name == "asks:radius=0.02"


def test_a_threat_that_is_bound_is_kept() -> None:
    wide = partial(fa.attacks.fgsm, threat=fa.Linf(0.9))
    table = fa.evaluate(MODEL, DATA, {"wide": wide, "fgsm": "fgsm"}, threat=fa.Linf(0.0), indicators=False)
    assert table["wide"].robust_accuracy < table["fgsm"].robust_accuracy == 1
    for one in (BALL, [BALL, fa.L2(1)]):  # known by its value
        assert named(None, deepcopy(one), fa.train.PGDTraining(one)) == {}


@pytest.mark.parametrize(
    ("attacks", "threat", "said"),
    [
        ("fgsm", None, "threat: expected one for fgsm, got None"),
        ("fgms", BALL, "did you mean 'fgsm'"),
        ("PGD", BALL, "did you mean 'pgd'"),
        (["fgsm", fa.attacks.fgsm], BALL, "got two of 'fgsm'"),
        ({"own": OWN}, BALL, r"threat: expected None, as nothing here takes it, got Linf\(.*leave it out"),
        ({"none": "fgsm"}, BALL, "attacks: expected lines with names of their own, got two of 'none'"),
        ({"x": 3}, BALL, r"attacks\['x'\]: expected a name or a function .* got int"),
        (None, BALL, "threat: expected None, as nothing here takes it"),
        ("fgsm", fa.Linf(0.1, box=(2, 3)), r"pixels in \[2, 3\], the box of attacks\['fgsm'\], got 0 to 1"),
        ({"a": OWN, "b": partial(fa.attacks.pgd, threat=BALL)}, fa.L2(1), r"nothing here takes it, got L2\("),
        ([OWN], BALL, "threat: expected None, as nothing here takes it"),
        (lambda model, x, y, *, ids, threat=BALL: OWN(model, x, y), fa.L2(1), "nothing here takes it"),
        ("fgsm", "linf", "threat: expected fa.Linf, L2, L1 or L0, got 'linf'"),
        ("pgd:speed=2", BALL, "pgd takes no 'speed'; it takes norm, radius, steps, "),
        ("pgd:norm=l2", None, r"'pgd:norm=l2': expected a radius beside the norm.* write pgd:norm=l2,radius"),
        (torch.zeros(6), BALL, r"attacks: expected names .*, got an array; pass data as a pair, \(x, y\)"),
        (3, BALL, r"attacks\['int'\]: expected a name or a function"),
        ("fgsm", 0.1, "threat: expected fa.Linf, L2, L1 or L0, got 0.1; a radius needs a norm"),
    ],
)
def test_what_cannot_be_is_refused(attacks: Any, threat: Any, said: str) -> None:
    refuses(said, fa.evaluate, MODEL, DATA, attacks, threat=threat)


def test_an_own_attack_serves_a_curve() -> None:
    def of_radius(radius: float) -> Any:
        return lambda model, x, y: asks(model, x, y, fa.Linf(radius))

    curve = fa.accuracy_against_radius(MODEL, DATA, of_radius, [0.0, BALL.radius])
    table = fa.evaluate(MODEL, DATA, lambda model, x, y: asks(model, x, y, BALL))
    assert curve.accuracy.tolist() == [table.clean_accuracy, table.rows[0].robust_accuracy]


@pytest.mark.slow
def test_a_seed_reaches_attacks_to_which_none_is_bound():
    noise, threat = partial(fa.attacks.uniform_noise, levels=9, repetitions=2), fa.Linf(0.3)
    evaluate = partial(fa.evaluate, MODEL, DATA, threat=threat, indicators=False)
    by = {seed: evaluate([partial(noise, seed=seed)]).rows[0].distance for seed in (0, 2, 5)}
    attacks = {
        "5": "uniform_noise:levels=9,repetitions=2",
        "05": noise,
        "2": partial(noise, seed=2),
        "0": partial(noise, seed=0),
    }
    table = evaluate(attacks, seed=5)
    assert all(torch.equal(row.distance, by[int(row.name)]) for row in table.rows)
    assert not torch.equal(by[0], by[5])
    assert evaluate(lambda model, x, y, threat: x, seed=5).rows[0].broken.sum() == 0


def test_a_function_that_takes_no_threat_is_judged_in_the_recipes_unless_that_is_a_map() -> None:
    def own(model: Any, x: Any, y: Any) -> Any:
        return x

    recipe = fa.train.TRADES(fa.Linf(0.1))
    assert named([own], recipe=recipe)["own"].threat is recipe.threat
    assert named([own], recipe=SimpleNamespace(threat=SHIFT)) == {"own": own}


TABLES = torch.linspace(-2, 2, 24).view(8, 3)


def unshifted(x: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(len(x), 1)


SHIFT = fa.Through(torch.add, fa.Linf(0.1, (-1, 1)), unshifted, box=(-9, 9))
REFUSED = {
    "a map": (nn.Linear(3, 2), (TABLES, TABLES[:, 0].gt(0).long()), "square", SHIFT),
    "a norm": (nets.Threshold(), nets.DATA, "ddn", fa.Linf(0.25)),
    "a radius": (nets.Threshold(), nets.DATA, "apgd", fa.L2(math.inf)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("first", [True, False])
def test_an_attack_that_refuses_the_threat_ends_no_evaluation(tmp_path, kind, first):
    model, data, name, threat = REFUSED[kind]
    other = "deepfool" if kind == "a radius" else "pgd"
    names = [name, other] if first else [other, name]
    asked = {"threat": threat, "batch_size": 4}
    table = fa.evaluate(model, data, names, run_dir=tmp_path, **asked)
    alone = fa.evaluate(model, data, other, **asked)
    assert table[name].refused.startswith(("threat: expected", "radius: expected"))
    assert f"{name}: not run: {table[name].refused}" in table.notes()
    assert table.worst_case == pytest.approx(alone.worst_case, nan_ok=True)
    assert table.verdict == alone.verdict
    assert table[other].broken.equal(alone[other].broken)
    assert table.to_dict()["attacks"][not first]["refused"] == table[name].refused
    assert fa.evaluate(model, data, names, run_dir=tmp_path, resume=True, **asked)[name].refused
    refuses("expected", fa.evaluate, model, data, name, **asked)
    with pytest.raises(InputError, match="steps: expected"):  # no word of the threat
        fa.evaluate(model, data, {"bad": partial(fa.attacks.pgd, steps=-1), "other": other}, **asked)
