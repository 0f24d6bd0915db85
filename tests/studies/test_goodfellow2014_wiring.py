"""The tables of Goodfellow et al.: who answers on whose examples, how networks are trained, what is drawn."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import fastadv as fa
from fastadv.studies.goodfellow2014 import SCALES, paper, tables
from fastadv.studies.goodfellow2014.measure import Bench, Line, craft
from fastadv.studies.goodfellow2014.nets import plans
from fastadv.text import in_markdown
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
        told = {"mean_confidence": "of all", "confidence_on_mistakes": "of mistakes"}
        return SimpleNamespace(error=said, wrong=True, **told)

    def robust_accuracy(self, name):
        return 0.75


def test_each_line_crosses_the_networks_that_it_names_beside_what_the_paper_printed(monkeypatch):
    """In goodfellow2014.md, checked by hand: who answers on whose examples, and which confidence is told."""
    monkeypatch.setattr(tables, "_agrees", lambda what, *_: Line(what, None))
    page = []
    for part in (tables.fgsm, tables.ensemble, tables.adversarial, tables.controls, tables.rounding):
        cells = [["line", "said", "confidence", "printed share", "printed confidence"]]
        cells += [
            [line.what, *map(str, (line.share, line.confidence, *line.paper))] for line in part(Asked())
        ]
        page.append(f"# {part.__name__}\n\n{in_markdown(cells, names=5)}\n")
    assert "\n".join(page) == (Path(__file__).parent / "goodfellow2014.md").read_text()


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
