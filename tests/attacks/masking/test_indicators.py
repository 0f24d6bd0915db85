"""The indicators: values by hand, what cannot be looked at, what they cost, and wrong input."""

import json
from dataclasses import replace
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import Indicators, Status, autoattack, ddn, indicators, pgd, square
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import Evidence, choose, look
from fastadv.attacks.masking.flags import SIGNS, Cost
from fastadv.attacks.masking.verdict import CLEAN, INCOMPLETE
from fastadv.engine import freeze
from fastadv.errors import InputError
from tests.attacks.contract.conftest import shorten
from tests.attacks.masking.nets import StraightThrough, honest, in_front
from tests.attacks.nets import convnet, images, labeled, labels, mlp
from tests.defenses import Quantize
from tests.refusals import refuses

THREAT = fa.Linf(0.08)
GRADIENTS, QUERIES = [Cost(10, 0, 1000, 1000, 0.0)], [Cost(10, 0, 4000, 0, 0.0)]


def case(count: int = 40, classes: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = mlp(classes), images(count)
    return model, x, labels(model, x)


def evidence(broken: list[int], count: int = 10, **changed: Any) -> Evidence:
    none = torch.zeros(count, dtype=torch.bool)
    hit = none.clone()
    hit[broken] = True
    return replace(Evidence(hit, none, torch.zeros(count), GRADIENTS), **changed)


def says(*attacks: Evidence, count: int = 10) -> Indicators:
    return look(freeze(mlp()), None, torch.arange(8), attacks, torch.ones(count, dtype=torch.bool))


def marked(*places: int) -> Tensor:
    return torch.zeros(10, dtype=torch.bool).index_fill_(0, torch.tensor(places), True)


def test_that_more_steps_would_help_is_a_remark() -> None:
    """Of several attacks the one that came to its end counts."""
    short, silent = (evidence([], unfinished=torch.full((10,), rise)) for rise in (1.0, torch.nan))
    assert says(short).verdict.startswith(f"{INCOMPLETE} Inconclusive")
    assert says(short, evidence([])).remarks == says(silent).remarks == []
    assert says(evidence([*range(9)], unfinished=torch.full((10,), 0.4))).remarks == []  # of one that holds


def test_what_gradients_left_and_others_broke() -> None:
    blind = evidence([1, 2, 3], costs=QUERIES)
    weak, strong = evidence([0, 1]), evidence([1, 2, 3])
    for attacks, share in (((weak, blind), 0.2), ((strong, blind), 0)):
        assert says(*attacks).values["square"] == pytest.approx(share)
    for alone in (evidence([0]), evidence([0], costs=GRADIENTS + QUERIES)):  # AutoAttack says so itself
        assert "square" not in says(alone).values


@pytest.mark.parametrize(
    ("alone", "lost", "expected"), [(1, 0, False), (6, 4, False), (8, 2, False), (6, 0, True), (9, 1, True)]
)
def test_square_must_win_by_more_than_chance(alone: int, lost: int, expected: bool) -> None:
    """Of 98 samples: one is chance, and so are six against four that gradients alone break."""
    by_square = evidence(list(range(40 - lost)), 98, costs=QUERIES)
    square = says(evidence(list(range(alone, 40)), 98), by_square, count=98)
    assert square.values["square"] == pytest.approx(alone / 98)
    assert ("square" in square.flagged) == expected


def test_steps_excuse_square_where_they_follow_the_model_alone() -> None:
    attacks = (
        evidence(list(range(4, 30)), 40),
        evidence(list(range(24)), 40, costs=[Cost(40, 0, 40 * 500, 0, 0.0)]),
    )
    test = fa.data.load("digits", "test", limit=40)
    mended = fa.models.bpda(in_front(Quantize(8)), {"before": "identity"})
    for place, model in enumerate((honest("standard"), in_front(StraightThrough()), mended)):
        task = Task.of(freeze(model), test.x[:8], test.y[:8], THREAT)
        looked = look(task.classifier, task, torch.arange(8), attacks, test.y >= 0)
        assert ("square" in looked.flagged) == bool(place)


def test_a_share_counts_by_its_lower_end() -> None:
    every = says(evidence([], 8, unmoved=torch.ones(8, dtype=torch.bool)), count=8)
    assert every.lower["zero_gradient"] == pytest.approx(0.025 ** (1 / 8))
    one = says(evidence([], unmoved=marked(3)))
    assert one.values["zero_gradient"] == 0.1
    assert (every.flagged, one.flagged) == (("zero_gradient",), ())


@pytest.mark.slow
def test_results_count_as_far_as_they_are_of_this_threat() -> None:
    """An attack that breaks all in another ball says nothing of what holds in this one."""
    model, x, y = case()
    small, ours = fa.Linf(0.01), pgd(model, x, y, fa.Linf(0.01), steps=40)
    wide, other = (pgd(model, x, y, threat, steps=20) for threat in (fa.Linf(0.5), fa.L2(9.0)))
    assert (wide.success & other.success).all()
    alone = indicators(model, x, y, small, results={"ours": ours})
    for more in (other, wide):
        together = indicators(model, x, y, small, results={"ours": ours, "more": more})
        assert (together.values, together.forwards) == (alone.values, alone.forwards)
    by_sample = fa.Linf(torch.full((40,), 0.01))
    values = indicators(model, x, y, by_sample, results={"ours": ours}).values
    assert values == pytest.approx(alone.values)
    assert Evidence.of(wide).within(small, wide.distance, 0.5).unfinished.isnan().all()
    targeted = pgd(model, x, y, small, steps=2, targets=(y + 1) % 3)
    for foreign in (other, targeted, pgd(model, x, y, fa.Linf(0.01, box=(0.0, 2.0)), steps=2)):
        with pytest.raises(InputError, match="results: expected one of an attack in linf and this box"):
            indicators(model, x, y, small, results={"foreign": foreign})


def test_an_ordinary_net_is_clean_and_the_table_says_all() -> None:
    model, x, y = case()
    signs = indicators(model, x, y, THREAT)
    assert signs.clean
    assert signs.verdict == f"{CLEAN} (8 samples probed)" == str(signs).splitlines()[-1]
    assert {*signs.values} == {*SIGNS} - {"square"}  # which no attack has searched
    assert all(name in str(signs) for name in SIGNS)
    assert (signs.flagged, signs.advice) == ((), {})
    plain = json.loads(json.dumps(signs.to_dict(), allow_nan=False))
    assert (plain["verdict"], plain["samples"]) == (signs.verdict, 8)
    assert indicators(model, x, y, THREAT) == signs


def test_samples_are_drawn_among_those_that_are_right() -> None:
    right = torch.rand(500, generator=torch.Generator().manual_seed(0)) > 0.5
    chosen = choose(right)
    assert len(chosen) == 8 == len(set(chosen.tolist()))
    assert right[chosen].all()
    assert torch.equal(chosen, choose(right))
    assert not torch.equal(chosen, choose(right, seed=1))
    assert len(choose(torch.arange(20) < 5)) == 5


@pytest.mark.slow
def test_what_was_not_looked_at_is_no_clean_verdict() -> None:
    model, x, y = case()
    short = indicators(model, x[:5], y[:5], THREAT)
    assert "it takes 8 samples that the model gets right" in short.verdict
    blind = {"square": square(model, x, y, THREAT, queries=200)}
    scores = indicators(model, x, y, THREAT, results=blind)
    none = indicators(model, x, y, THREAT, results={})
    assert scores.unseen == none.unseen == {"square": "no gradient attack"}
    for signs in (short, scores, none):
        assert signs.verdict.startswith("Inconclusive")
        assert not signs.clean
        assert signs.flagged == ()
        assert sorted([*signs.values, *signs.unseen]) == sorted(SIGNS)


def test_without_a_box_images_are_those_between_the_samples() -> None:
    model, x, y = case(8)
    frozen, right = freeze(model), torch.ones(8, dtype=torch.bool)
    attack = Evidence.of(ddn(model, x, y, fa.L2(inf), steps=20))
    signs = look(frozen, Task.of(frozen, x, y, fa.L2(inf)), torch.arange(8), [attack], right)
    assert (signs.unseen, signs.values["unconstrained"]) == ({}, 0)
    endless = Task.of(frozen, x, y, fa.L2(1.0, box=(-inf, inf)))
    signs = look(frozen, endless, torch.arange(8), [attack], right)
    assert signs.clean
    targeted = Task.of(frozen, x, y, THREAT, targets=(y + 1) % 3)
    aimed = Evidence.of(pgd(model, x, y, THREAT, targets=targeted.targets))
    assert look(frozen, targeted, torch.arange(8), [aimed], right).verdict.startswith(CLEAN)


def test_what_an_attack_broke_is_not_unconstrained() -> None:
    model, x, y = case(8)
    with torch.no_grad():
        model[3].bias[0] += 1000  # whatever x is
    frozen, right = freeze(model), torch.ones(8, dtype=torch.bool)
    task = Task.of(frozen, x, 0 * y, THREAT)
    for broken, share in (([], 1.0), ([*range(6)], 0.25)):
        signs = look(frozen, task, torch.arange(8), [evidence(broken, 8)], right)
        assert signs.values["unconstrained"] == share


def test_flags_of_others_are_raised_whatever_their_value() -> None:
    plain = Indicators(dict.fromkeys(SIGNS, 0.0))
    assert plain.clean
    raised = plain.with_flags(["square"])
    sign = SIGNS["square"]
    assert raised.verdict == f"Do not trust (1 sign).\nsquare: {sign.words}\nNext: {sign.advice}"
    assert Indicators({}, {"square": "why"}).with_flags(["square"]).unseen == {}
    by_chance = Indicators({"square": 0.02}, lower={"square": 0.0})
    assert by_chance.flagged == ()
    assert by_chance.with_flags(["square"]).flagged == raised.flagged == ("square",)


@pytest.mark.slow
def test_autoattack_looks_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, {"apgd": {"steps": 20}, "square": {"queries": 200}})
    model, x, y = labeled(mlp(5), images(200))
    out, without = (autoattack(model, x, y, THREAT, version="quick", indicators=on) for on in (True, False))
    assert (without.indicators, without.verdict) == (None, "")
    assert out.verdict == out.indicators.verdict
    assert torch.equal(out.x_adv, without.x_adv)
    assert (out.by, out.flags, list(out.costs)) == (without.by, without.flags, list(without.costs))
    spent = out.indicators.forwards + out.indicators.backwards
    assert out.forwards + out.backwards == without.forwards + without.backwards + spent
    assert spent <= 0.05 * (without.forwards + without.backwards)
    assert out.indicators.samples >= 8
    flagged = autoattack(nn.Sequential(Quantize(50), model), x[:20], y[:20], THREAT, version="rand", eot=1)
    assert "zero_gradient" in flagged.indicators.flagged
    assert str(flagged).startswith(f"{flagged.indicators.lead} AutoAttack rand, Linf")
    assert str(flagged).endswith(f"\n{flagged.verdict}")
    assert autoattack(model, x[:0], y[:0], THREAT).verdict.startswith("Inconclusive")


def test_wrong_input_is_named() -> None:
    model, x, y = case(10)
    out = pgd(model, x, y, THREAT, steps=2)
    for options, text in (
        ({"results": {"a": out, "b": 3}}, r"results\['b'\]: expected an AttackResult of these 10"),
        ({"results": [out]}, "results: expected AttackResults by the names of attacks, got list"),
        ({"seed": -1}, "seed"),
        ({"threat": fa.Linf(inf)}, "radius: expected a finite one"),
        ({"y": y[:3]}, "y"),
    ):
        refuses(text, indicators, **{"model": model, "x": x, "y": y, "threat": THREAT, **options})
    refuses("these 5 samples", indicators, model, x[:5], y[:5], THREAT, results={"a": out})


def test_what_an_attack_says_is_not_hidden_by_a_probe() -> None:
    """A failed sample of an attack by gradients is unmoved, whatever the probes see."""
    model, x, y = case()
    threat = fa.Linf(1e-6)
    out = pgd(model, x, y, threat, steps=2)
    failed = replace(out, status=torch.full_like(out.status, Status.FAILED))
    for result, share in ((out, 0), (failed, 1)):
        assert indicators(model, x, y, threat, results={"pgd": result}).values["zero_gradient"] == share


def test_a_warning_of_autoattack_counts_for_few_samples_too() -> None:
    """Dark images are of class 0, whatever a small change does to them."""
    net, x = mlp(), images(24)
    x[0] = 0

    def dark(x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1, keepdim=True) > 0.2
        return torch.where(bright, net(x), torch.eye(3, dtype=x.dtype)[:1])

    out = autoattack(dark, x, dark(x).argmax(1), THREAT, version=["apgd-ce"])
    assert out.indicators.values["zero_gradient"] == 1
    assert out.indicators.flagged[:1] == ("zero_gradient",)
    assert float(Evidence.of(out).unmoved.sum()) == 1


def test_a_model_in_training_mode_is_looked_at_in_eval_mode() -> None:
    model, x, y = labeled(convnet(), images(8, (2, 8, 8), dtype=torch.float32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = indicators(model, x, y, THREAT)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found == indicators(model.eval(), x, y, THREAT)
