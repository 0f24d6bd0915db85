"""The verdict of an evaluation: what all attacks say together, in texts, and in the folder of a run."""

import json
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import NoGradientError
from fastadv.evaluation import Table, _masking, evaluate
from tests.attacks.nets import images, labels, mlp
from tests.defenses import Detach, RootAtZero
from tests.evaluation.nets import timeless

X = images(60, dtype=torch.float32)
NET = mlp(dtype=torch.float32)
SET = ImageSet(X, labels(NET, X), 3, "noise")
PGD = partial(fa.attacks.pgd, threat=fa.Linf(0.08), steps=40)


def signs(table: Table) -> fa.attacks.Indicators:
    assert table.indicators is not None
    return table.indicators


def looked(attacks: dict[str, Any], **options: Any) -> Table:
    return evaluate(NET, SET, attacks, **options)


@pytest.mark.slow
def test_the_verdict_is_told_everywhere() -> None:
    table = looked({"pgd": PGD, "long": partial(PGD, steps=300, stop_early=False)})
    assert table.verdict == signs(table).verdict
    assert table.verdict == f"No sign of masking ({signs(table).samples} samples probed)"
    assert str(table).splitlines()[-1] == table.verdict
    as_json = json.loads(json.dumps(table.to_dict(), allow_nan=False))["indicators"]
    assert as_json["verdict"] == table.verdict
    assert as_json["samples"] >= 8
    passes = sum(row.forwards + row.backwards for row in table.rows)
    assert 0 < signs(table).forwards + signs(table).backwards <= 0.05 * passes
    without = looked({"pgd": PGD}, indicators=False)
    assert (without.indicators, without.verdict) == (None, "")
    assert without.to_dict()["indicators"] is None
    assert evaluate(NET, SET).indicators is None


@pytest.mark.slow
def test_it_is_kept_and_read(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = {"pgd": partial(PGD, steps=300, stop_early=False)}
    first = looked(attacks, run_dir=tmp_path)
    assert (tmp_path / "indicators.safetensors").exists()
    monkeypatch.setattr(_masking, "look", None)  # not asked again
    assert signs(looked(attacks, run_dir=tmp_path, resume=True)) == signs(first)
    # a folder begun without them goes on with them, and the other way round
    assert looked(attacks, run_dir=tmp_path, resume=True, indicators=False).indicators is None
    monkeypatch.undo()
    (tmp_path / "indicators.safetensors").unlink()
    again = looked(attacks, run_dir=tmp_path, resume=True)
    assert timeless(again.to_dict()) == timeless(first.to_dict())


@pytest.mark.slow
def test_attacks_count_at_the_threat_that_took_most_passes() -> None:
    """What a larger radius, or an attack for the nearest, broke within this radius counts; no other norm."""
    table = looked(
        {
            "small": partial(PGD, threat=fa.Linf(0.01), steps=2),
            "pgd": partial(PGD, steps=300, stop_early=False),
            "l2": partial(fa.attacks.pgd, threat=fa.L2(0.1), steps=2),
            "nearest": partial(fa.attacks.fmn, threat=fa.Linf(inf), steps=40),
        }
    )
    assert signs(table).values["incomplete"] < 0.05
    assert table.verdict.startswith("No sign of masking")


@pytest.mark.slow
def test_two_answers_are_no_clean_verdict() -> None:
    """Also where an attack saw them, and no probe: the answer depends on the place in the batch."""

    class Together(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = NET(x)
            return logits * torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0)[:, None]

    for draws in (1, 3):
        table = evaluate(Together(), SET, {"pgd": PGD}, draws=draws)
        assert "randomized" in signs(table).flagged


def test_gradients_that_are_not_finite_count_without_a_probe() -> None:
    table = evaluate(torch.nn.Sequential(RootAtZero(), NET), SET, {"pgd": partial(PGD, steps=3)}, limit=7)
    assert (signs(table).samples, table["pgd"].failed) == (0, 7)
    assert signs(table).values["zero_gradient"] == 1


@pytest.mark.slow
def test_an_attack_without_a_gradient_is_not_possible_and_the_rest_goes_on() -> None:
    cut = torch.nn.Sequential(Detach(), NET)
    square = partial(fa.attacks.square, threat=fa.Linf(0.08), queries=60)
    table = evaluate(cut, SET, {"pgd": PGD, "square": square}, keep_samples=True, batch_size=40)
    row = table["pgd"]
    assert (row.robust_accuracy, row.unmoved, row.backwards) == (table.clean_accuracy, 60, 0)
    assert row.forwards > 0
    assert len(row.flags) == 1
    assert row.flags[0].startswith(
        "zero_gradient: the attack could not run (model: expected logits that depend on x"
    )
    assert table["square"].broken.any()
    assert torch.equal(table.held, ~table["square"].broken)
    assert [line.partition(":")[0] for line in table.verdict.splitlines()] == [
        "Do not trust (3 signs).", "incorrect_gradient", "zero_gradient", "unconstrained", "Next",
    ]  # fmt: skip
    assert "'0' cuts the graph at 100% of its inputs: give fa.models.bpda(model, {'0'" in table.verdict
    drawn = evaluate(cut, SET, {"pgd": PGD}, draws=3)["pgd"].draws
    assert drawn is not None
    assert drawn.right.min() == 3
    with pytest.raises(NoGradientError):
        PGD(cut, X, SET.y)


def digits() -> tuple[torch.nn.Module, ImageSet]:
    x = fa.data.load("digits", "test").x[:30]
    model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
    with torch.no_grad():
        return model, ImageSet(x, model(x).argmax(1), 10, "digits")


@pytest.mark.slow
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


@pytest.mark.slow
def test_autoattack_is_flagged_too() -> None:
    model, data = digits()
    aa = partial(fa.attacks.autoattack, threat=fa.Moved(1, 10), version=["apgd-ce", "square"])
    table = fa.evaluate(model, data, {"aa": aa}, limit=5)
    assert "few_parameters" in table.verdict
    assert not any("square" in flag for flag in table.rows[0].flags)
    assert "few_parameters" in str(aa(model, data.x, data.y))
