"""Tables of attacks in maps of parameters: rows by their names, what is said of gradients alone, resuming."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv.data import ImageSet

pytestmark = pytest.mark.slow


def digits() -> tuple[torch.nn.Module, ImageSet]:
    x = fa.data.load("digits", "test").x[:30]
    model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
    with torch.no_grad():
        return model, ImageSet(x, model(x).argmax(1), 10, "digits")


def test_few_parameters_need_more_than_gradients(tmp_path: Path) -> None:
    model, data = digits()
    apgd = partial(fa.attacks.apgd, steps=5)
    alone = fa.evaluate(model, data, {"apgd": apgd}, threat=fa.Moved(1, 15), batch_size=16)
    assert alone.verdict.startswith("Do not trust (")
    assert all(text in alone.verdict for text in ("few_parameters", "fastadv.attacks.grid"))
    both = fa.evaluate(model, data, {"apgd": apgd, "grid": "grid"}, threat=fa.Moved(1, 15), keep_samples=True)
    assert "few_parameters" not in both.verdict
    assert "square" not in both.indicators.flagged
    assert "30 samples, Moved 1 px, 15°; accuracy" in str(both)
    rows = json.loads(json.dumps(both.to_dict()))["attacks"]
    assert [(row["norm"], row["radius"]) for row in rows] == [("Moved 1 px, 15°", 1.0)] * 2
    assert both["grid"].robust_accuracy <= both["apgd"].robust_accuracy < 1
    broken = both.samples.success
    with torch.no_grad():
        assert torch.equal(model(both.samples.x_adv).argmax(1) != data.y, broken)
    fa.evaluation.report(both, tmp_path / "report.html", model=model)
    assert "changed within Moved 1 px, 15°" in (tmp_path / "report.html").read_text()
    # a flow has many parameters, and a ball has none
    for threat in (fa.Flow(0.3), fa.Linf(0.05)):
        assert "few_parameters" not in fa.evaluate(model, data, {"apgd": apgd}, threat=threat).verdict


def test_autoattack_is_flagged_too() -> None:
    model, data = digits()
    aa = partial(fa.attacks.autoattack, threat=fa.Moved(1, 10), version=["apgd-ce", "square"])
    table = fa.evaluate(model, data, {"aa": aa}, limit=5)
    assert "few_parameters" in table.verdict
    assert not any("square" in flag for flag in table.rows[0].flags)
    assert "few_parameters" in str(aa(model, data.x, data.y))
