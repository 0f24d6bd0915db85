"""The study of adversarial training, tiny: what it keeps, tells and leaves; its figures mean nothing."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from papers import training

TINY = training.SCALES["tiny"]
TRAIN, TEST = fa.data.load("digits", "train", limit=TINY.images), fa.data.load("digits", "test")


@pytest.fixture
def theirs(monkeypatch):
    """A package autoattack that puts each image to black, and what it was asked for."""
    asked = []

    class AutoAttack:
        def __init__(self, model, **options):
            asked.append(options | {"model": model})

        def run_standard_evaluation(self, x, y, bs):
            asked.append((x, y))
            return torch.zeros_like(x)

    package = SimpleNamespace(AutoAttack=AutoAttack, __spec__=object())
    monkeypatch.setitem(sys.modules, "autoattack", package)
    return asked


@pytest.mark.slow
def test_three_recipes_are_trained_and_attacked(tmp_path, theirs, logged):
    seen = []
    result = training.run(TINY, TRAIN, TEST, tmp_path, lambda *told: seen.append(told))
    assert {told for told in seen if "attacking PGD-10" in told} >= {
        ("attacking PGD-10", n, n) for n in (8, 12)
    }
    assert "nothing is trained" not in logged.text
    nets = result["measured"]["nets"]
    assert list(nets) == ["PGD-10", "N-FGSM", "TRADES"]
    for name, net in nets.items():
        model = fa.models.create("small_cnn", shape=TRAIN.shape, classes=10, width=4)
        fa.models.load_weights(model, tmp_path / name / "ema.safetensors")
        if name == "PGD-10":  # the averaged weights are attacked
            assert torch.equal(theirs[0]["model"](theirs[1][0]), model.eval()(theirs[1][0]))
        alone = fa.evaluate(model.eval(), TEST, limit=TINY.tested)
        assert net["tested"]["clean"] == alone.clean_accuracy
        assert net["tested"]["robust"] <= net["tested"]["clean"]
    assert nets["PGD-10"]["whole"]["images"] == 12
    assert theirs[0]["eps"] == 8 / 255
    assert torch.equal(theirs[1][1], TEST.y[: TINY.tested])
    assert nets["PGD-10"]["authors"]["images"] == TINY.tested
    assert [line[0] for line in training.table(result)] == [
        "recipe", "PGD-10", "PGD-10", "PGD-10, by the authors' package", "N-FGSM", "TRADES",
    ]  # fmt: skip
    page = (tmp_path / "report.md").read_text()
    assert "50.49% (82.4% clean)" in page
    assert "MAIR" in page
    with pytest.raises(InputError, match=r"another epochs \(1 there, 2 here\)"):
        training.run(replace(TINY, epochs=2), TRAIN, TEST, tmp_path)
