"""The tables of Goodfellow et al.: who answers on whose examples, how networks are trained, what is drawn."""

from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.studies.goodfellow2014 import SCALES, paper, tables
from fastadv.studies.goodfellow2014.measure import Bench, Line, craft
from fastadv.studies.goodfellow2014.nets import plans
from fastadv.train import FGSMTraining, HiddenFGSM, InputNoise, RubbishTraining, Standard, WeightDecayL1
from tests.studies.goodfellow import INFINITE, digits

TINY = replace(SCALES["tiny"], members=3, seeds=2, radius=0.2, patience=7)
BALL = fa.Linf(0.2, INFINITE)


class Asked:
    """In place of a Bench: answers say who was asked, about what, in place of the error."""

    def __init__(self):
        self.settings, self.y = TINY, torch.zeros(5)
        self.nets = SimpleNamespace(plans=plans(TINY))

    def crafted(self, name, boxed=False):
        return f"{name}{' boxed' if boxed else ''}"

    def rounded(self, name):
        return f"{name} rounded"

    def answers(self, name, x="clean"):
        said = f"{name} on {x}"
        return SimpleNamespace(error=said, mean_confidence="all", confidence_on_mistakes="mistakes")

    def robust_accuracy(self, name):
        return 0.3


def told(lines):
    return {line.what: (line.share, line.confidence, line.paper) for line in lines}


def test_fgsm_is_crafted_on_the_network_that_answers():
    found = told(tables.fgsm(Asked()))
    paper = {
        "softmax": (0.999, 0.793),
        "maxout": (0.894, 0.976),
        "rbf": (0.554, 0.012),
        "quadratic": (0.307, None),
    }
    clean = {
        "softmax": (None, None),
        "maxout": (0.0094, None),
        "rbf": (None, 0.606),
        "quadratic": (0.0084, None),
    }
    for name in paper:
        assert found.pop(f"{name}, clean") == (f"{name} on clean", "all", clean[name])
        assert found.pop(f"{name}, FGSM") == (f"{name} on {name}", "mistakes", paper[name])
        boxed = (f"{name} on {name} boxed", "mistakes", (None, None))
        assert found.pop(f"{name}, FGSM within the box") == boxed
    assert not found


def test_the_other_tables_cross_networks_as_they_say():
    found = {
        what: line
        for each in (tables.ensemble, tables.controls)
        for what, line in told(each(Asked())).items()
    }
    assert found.pop("ensemble of 3, clean")[:2] == ("ensemble on clean", "all")
    assert found.pop("FGSM on the ensemble") == ("ensemble on ensemble", "mistakes", (0.911, None))
    assert found.pop("FGSM on one member") == ("ensemble on maxout", "mistakes", (0.879, None))
    noise = {"noise_sign": (0.862, 0.973), "noise_uniform": (0.904, 0.978)}
    for name in (*noise, "hidden_first", "hidden_last", "l1_0.0025", "l1_0.00025"):
        assert found.pop(f"{name}, clean")[:2] == (f"{name} on clean", "all")
        wanted = (f"{name} on {name}", "mistakes", noise.get(name, (None, None)))
        assert found.pop(f"{name}, FGSM") == wanted
    assert not found
    found = told(tables.adversarial(Asked()))
    clean = {"maxout": 0.0094, "adversarial": 0.0084, "large": 0.0114, "large_adversarial": 0.00782,
             "large_adversarial-1": 0.00782}  # fmt: skip
    for name, error in clean.items():
        assert found.pop(f"{name}, clean") == (f"{name} on clean", "all", (error, None))
    for name in ("adversarial", "large_adversarial", "large_adversarial-1"):
        assert found.pop(f"{name}, its own FGSM") == (f"{name} on {name}", "mistakes", (0.179, 0.814))
        assert found.pop(f"{name}, FGSM on maxout") == (f"{name} on maxout", "mistakes", (0.196, None))
        assert found.pop(f"maxout, FGSM on {name}") == (f"maxout on {name}", "mistakes", (0.409, None))
        assert found.pop(f"{name}, PGD-40 within the box")[0] == pytest.approx(0.7)
    assert not found


def test_rounded_examples_are_of_the_network_that_the_line_names(monkeypatch):
    agreed = Line("agreed", 0.5)
    monkeypatch.setattr(tables, "_agrees", lambda what, one, other, *rest: agreed)
    bench: Any = Asked()
    plain = bench.answers

    def answers(name, x="clean"):
        return SimpleNamespace(**vars(plain(name, x)), wrong=True)

    bench.answers = answers
    found = told(tables.rounding(bench))
    paper = {"maxout": (0.894, 0.976), "noise_sign": (0.862, 0.973), "noise_uniform": (0.904, 0.978),
             "adversarial": (0.179, 0.814)}  # fmt: skip
    for name, printed in paper.items():
        assert found.pop(f"{name}, FGSM rounded") == (f"{name} on {name} rounded", "mistakes", printed)
    crossed = ("adversarial on maxout rounded", "mistakes", (0.196, None))
    assert found.pop("adversarial, FGSM rounded on maxout") == crossed
    assert list(found) == ["agreed"]


def test_how_each_network_is_trained():
    found = plans(TINY)
    wanted = {
        **dict.fromkeys(["softmax", "quadratic", "maxout", "large", "member-1", "member-2"], Standard()),
        **dict.fromkeys(["rbf", "sigmoids"], Standard(loss="bce")),
        **dict.fromkeys(["adversarial", "large_adversarial", "large_adversarial-1"], FGSMTraining(BALL, 0.5)),
        "noise_sign": InputNoise(BALL, "sign"), "noise_uniform": InputNoise(BALL, "uniform"),
        "rubbish": RubbishTraining(),
        "hidden_first": HiddenFGSM("hidden.1", 0.2), "hidden_last": HiddenFGSM("linear", 0.2),
        "l1_0.0025": WeightDecayL1(0.0025), "l1_0.00025": WeightDecayL1(0.00025),
    }  # fmt: skip
    # as text, since threats are equal to none but themselves
    assert {name: repr(plan.recipe) for name, plan in found.items()} == {
        k: repr(v) for k, v in wanted.items()
    }
    numbered = {name: plan.number for name, plan in found.items() if plan.number}
    assert numbered == {"member-1": 1, "member-2": 2, "large_adversarial-1": 1}
    wide = {name for name, plan in found.items() if plan.options.get("units") == TINY.large_units}
    assert wide == {"large", "large_adversarial", "large_adversarial-1"}
    assert {name for name, plan in found.items() if plan.early} == wide - {"large"}
    assert {plan.model for name, plan in found.items() if plan.options and name != "quadratic"} == {
        "maxout",
        "sigmoids",
    }
    assert (TINY.boxed.box, TINY.boxed.radius) == ((0.0, 1.0), 0.2)


def test_a_bench_crafts_by_each_networks_own_loss_and_keeps_it(tmp_path):
    made = {name: fa.models.create(name, shape=(1, 8, 8), seed=3) for name in ("softmax", "rbf", "sigmoids")}

    class Made(dict[str, Any]):
        device, settings = None, replace(TINY, tested=20)

    bench = Bench(Made(made), digits(), tmp_path)  # type: ignore[arg-type]
    x, y = digits().x[:20], digits().y[:20]
    for name, loss in (("softmax", "ce"), ("rbf", "bce"), ("sigmoids", "bce")):
        assert torch.equal(bench.crafted(name), craft(made[name], x, y, BALL, loss))
        assert torch.equal(bench.crafted(name, boxed=True), craft(made[name], x, y, fa.Linf(0.2), loss))
        assert bench.crafted(name) is bench.crafted(name)
    assert torch.equal(bench.answers("rbf").classes, made["rbf"].eval()(x).argmax(1))


def test_a_line_as_people_read_it():
    lines = {"fgsm": Line("maxout", 0.5, 0.25, (0.894, 0.976)), "rubbish": Line("rbf", None)}
    told = [{"part": part, **asdict(line)} for part, line in lines.items()]
    result = {"measured": {"lines": told}}
    assert paper.table(result, "fgsm")[1:] == [["maxout", "50.00%", "89.40%", "25.0%", "97.6%"]]
    assert paper.table(result, "rubbish")[1:] == [["rbf", "-", "-", "-", "-"]]
