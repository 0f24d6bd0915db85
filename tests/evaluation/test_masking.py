"""The verdict of an evaluation: what all attacks say together, and what is said before a figure in doubt."""

import json
import re
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks import Indicators
from fastadv.attacks.masking.evidence import FEW_PARAMETERS
from fastadv.data import ImageSet
from fastadv.evaluation import Table, _masking, evaluate
from fastadv.labels import label_flags
from tests.attacks.contract.conftest import shorten
from tests.attacks.nets import images, labels, mlp
from tests.defenses import Detach, Quantize, RootAtZero
from tests.evaluation.nets import timeless
from tests.evaluation.test_report import written

X = images(60, dtype=torch.float32)
NET = mlp(dtype=torch.float32)
Y = labels(NET, X)
SET = ImageSet(X, Y, 3, "noise")
PGD = partial(fa.attacks.pgd, threat=fa.Linf(0.08))
LONG = partial(PGD, steps=40)
WRONG = (Y + 1) % 3
NOTHING = "misclassified before the attack: nothing was attacked; are labels and model of one kind?"
MASKED = nn.Sequential(Quantize(4), NET)


def signs(table: Table) -> Indicators:
    assert table.indicators is not None
    return table.indicators


def looked(attacks: dict[str, Any], **options: Any) -> Table:
    return evaluate(NET, SET, attacks, **options)


@pytest.mark.slow
def test_the_verdict_is_told_everywhere() -> None:
    table = looked({"pgd": LONG, "long": partial(LONG, steps=300, stop_early=False)})
    assert table.verdict == signs(table).verdict
    assert table.verdict == f"No sign of masking ({signs(table).samples} samples probed)"
    assert str(table).splitlines()[-1] == table.verdict
    as_json = json.loads(json.dumps(table.to_dict(), allow_nan=False))["indicators"]
    assert as_json["verdict"] == table.verdict
    assert as_json["samples"] == 8
    without = looked({"pgd": LONG}, indicators=False)
    assert (without.indicators, without.verdict) == (None, "")
    assert without.to_dict()["indicators"] is None
    assert evaluate(NET, SET).indicators is None


@pytest.mark.slow
def test_it_is_kept_and_read(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = {"pgd": partial(LONG, steps=300, stop_early=False)}
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
            "small": partial(LONG, threat=fa.Linf(0.01), steps=2),
            "pgd": partial(LONG, steps=300, stop_early=False),
            "l2": partial(fa.attacks.pgd, threat=fa.L2(0.1), steps=2),
            "nearest": partial(fa.attacks.fmn, threat=fa.Linf(inf), steps=40),
        }
    )
    assert table.indicators.clean
    assert table.verdict.startswith("No sign of masking")


def test_a_norm_of_ones_own_has_a_verdict() -> None:
    Own = type("Own", (fa.Linf,), {})
    table = evaluate(NET, SET, "pgd", threat=Own(0.08), batch_size=25)
    other = evaluate(MASKED, SET, [partial(PGD, threat=Own(0.08))], batch_size=25)
    assert table.verdict == "No sign of masking (8 samples probed)"
    assert "zero_gradient" in signs(other).flagged


@pytest.mark.slow
def test_two_answers_are_no_clean_verdict() -> None:
    """Also where an attack saw them, and no probe: the answer depends on the place in the batch."""

    class Together(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = NET(x)
            return logits * torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0)[:, None]

    for draws in (1, 3):
        assert "mixed_rows" in signs(evaluate(Together(), SET, {"pgd": LONG}, draws=draws)).flagged


class Noisy(nn.Module):
    """A linear model whose logits are off by chance, with its gradient or that the other way round."""

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way = way
        self.weights = nn.Parameter(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach() + self.way * (x - x.detach())
        logits = (x - 0.5).flatten(1) @ self.weights.T
        return logits + 0.5 * torch.randn_like(logits)


@pytest.mark.slow
@pytest.mark.parametrize("way", [1, -1])
def test_chance_lets_square_break_no_more_of_a_randomized_model(way: int) -> None:
    """Samples that held in one draw may be broken in another, as those that were broken may hold."""
    torch.manual_seed(0)  # what a model draws hangs on the tests before
    x, eot = images(160, dtype=torch.float32), partial(fa.attacks.pgd, steps=100, eot=8)
    y = ((x - 0.5).flatten(1) @ Noisy(way).weights.T).argmax(1)
    attacks = {"pgd": eot, "square": partial(fa.attacks.square, queries=100)}
    table = evaluate(Noisy(way), (x, y), attacks, threat=fa.Linf(0.06), draws=8, batch_size=200)
    assert "square" in signs(table).flagged if way < 0 else signs(table).flagged == ()


def test_a_module_without_a_gradient_is_told_where_no_probe_looks() -> None:
    moved = partial(fa.attacks.apgd, threat=fa.Moved(1, 10), steps=3)
    assert "zero_gradient" in signs(evaluate(nn.Sequential(Detach(), NET), SET, {"moved": moved})).flagged


def test_gradients_that_are_not_finite_count_without_a_probe() -> None:
    table = evaluate(nn.Sequential(RootAtZero(), NET), SET, {"pgd": partial(LONG, steps=3)}, limit=7)
    assert (signs(table).samples, table["pgd"].failed) == (0, 7)
    assert signs(table).values["zero_gradient"] == 1


@pytest.mark.slow
def test_an_attack_without_a_gradient_is_not_possible_and_the_rest_goes_on() -> None:
    cut = nn.Sequential(Detach(), NET)
    square = partial(fa.attacks.square, threat=fa.Linf(0.08), queries=60)
    table = evaluate(cut, SET, {"pgd": LONG, "square": square}, keep_samples=True, batch_size=40)
    assert (table["pgd"].robust_accuracy, table["pgd"].unmoved, table["pgd"].backwards) == (1, 60, 0)
    assert torch.equal(table.held, ~table["square"].broken)
    assert [line.partition(":")[0] for line in table.verdict.splitlines()] == [
        "Do not trust (3 signs).", "incorrect_gradient", "zero_gradient", "unconstrained", "Next",
    ]  # fmt: skip
    assert "fa.attacks.masked_modules(model, x)" in table.verdict.splitlines()[-1]
    drawn = evaluate(cut, SET, {"pgd": LONG}, draws=3)["pgd"].draws
    assert drawn is not None
    assert drawn.right.min() == 3


def digits() -> tuple[nn.Module, ImageSet]:
    x = fa.data.load("digits", "test").x[:30]
    model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
    with torch.no_grad():
        return model, ImageSet(x, model(x).argmax(1), 10, "digits")


@pytest.mark.slow
def test_few_parameters_need_more_than_gradients(tmp_path: Path) -> None:
    model, data = digits()
    apgd = partial(fa.attacks.apgd, steps=5)
    alone = fa.evaluate(model, data, {"apgd": apgd}, threat=fa.Moved(1, 15), batch_size=16)
    assert alone.verdict.startswith(FEW_PARAMETERS)
    both = fa.evaluate(model, data, {"apgd": apgd, "grid": "grid"}, threat=fa.Moved(1, 15), keep_samples=True)
    assert FEW_PARAMETERS not in both.verdict
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
    # budgets have many parameters, and a ball has none
    for threat in (fa.Scaled(torch.full((1, 8, 8), 0.05)), fa.Linf(0.05)):
        assert FEW_PARAMETERS not in fa.evaluate(model, data, {"apgd": apgd}, threat=threat).verdict


@pytest.mark.slow
def test_autoattack_is_flagged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, {"square": {"queries": 50}})
    model, data = digits()
    aa = partial(fa.attacks.autoattack, threat=fa.Moved(1, 10), version=["apgd-ce", "square"])
    table = fa.evaluate(model, data, {"aa": aa}, limit=5)
    assert FEW_PARAMETERS in table.verdict
    assert not any("square" in flag for flag in table.rows[0].flags)
    assert FEW_PARAMETERS[1:] in str(aa(model, data.x, data.y))


def test_a_masked_model_is_told_first(tmp_path) -> None:
    first, *_ = str(PGD(MASKED, X, Y)).splitlines()
    assert first.startswith("Not a robust accuracy: every gradient was zero on ")
    assert re.search("robust at most [0-9.]+%$", first)
    assert str(PGD(NET, X, Y)).startswith("pgd, Linf 0.08: clean 100.0%, robust ")
    table = evaluate(MASKED, (X, labels(MASKED, X)), {"pgd": PGD}, keep_samples=True)
    lead, most = "Not a robust accuracy: gradients are masked.", f"At most {100 * table.worst_case:.1f}%"
    assert str(table).startswith(f"{lead} {most}.\nattack ")
    page = written(tmp_path, table, title="mine")
    assert f"<title>{lead} {most}. mine</title>" in page.source
    assert f'<h1><span class="raised">{lead}</span> mine</h1>' in page.source
    assert f"{lead} At most {table.held.sum()} of 60 images" in page.text
    assert f"{most} within L∞ 0.08: " in page.text
    assert "pairs denied" in page.source
    assert "95%" not in page.text
    assert "pairs denied" not in written(tmp_path, replace(table, indicators=None)).source


def test_labels_that_do_not_fit_are_told() -> None:
    for out in (PGD(NET, X[:16], WRONG[:16]), fa.attacks.autoattack(NET, X[:16], WRONG[:16], fa.Linf(0.08))):
        assert out.flags == (f"labels: all 16 were {NOTHING}",)
        assert out.flags[0] in str(out)
    assert PGD(NET, X, WRONG, targets=Y).flags == ()  # whose labels lead away
    table = evaluate(NET, (X, WRONG), {"pgd": PGD}, batch_size=7)
    told = f"All 60 were {NOTHING} Inconclusive, no flag so far; did not run: square (no gradient attack)"
    assert table.verdict.startswith(f"{told}; 7 checks")
    assert f"All 60 were {NOTHING}" in evaluate(NET, (X, WRONG), {"pgd": PGD}, indicators=False).notes()
    few = torch.where(torch.arange(60) < 4, Y, WRONG)
    assert "4 of 60 were right" in PGD(NET, X, few).flags[0]
    verdict = evaluate(NET, (X, few), {"pgd": PGD}, batch_size=1).verdict
    assert verdict.startswith("4 of 60 were right before the attack, fewer than chance, 1 in 3, allows")
    # P(X <= 1 | 100, 1/10) = 0.0003, P(X <= 2) = 0.0019
    doubted = [bool(label_flags(*counts)) for counts in ((1, 100, 10), (2, 100, 10), (1, 1000))]
    assert doubted == [True, False, False]


class Sick(nn.Module):
    def __init__(self, sick: torch.Tensor, net: nn.Module = NET) -> None:
        super().__init__()
        self.sick, self.net = sick, net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same = (x.flatten(1)[:, None] == self.sick.flatten(1)).all(2).any(1)
        return self.net(x).masked_fill(same[:, None], torch.nan)


# how many samples have finite logits, the size of a batch, and how often each sample is classified
DOUBTED = [(1, 7, 2), (5, 60, 1), (59, 7, 1), (60, 60, 2), (60, 7, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("y", [Y, WRONG, torch.where(torch.arange(60) < 4, Y, WRONG)])
def test_a_table_doubts_labels_where_a_result_does(y: torch.Tensor) -> None:
    """Not where some logits are not finite, which explains as much."""
    for finite, size, draws in DOUBTED:
        model = Sick(X[finite:])
        said = [flag[8:].capitalize() for flag in PGD(model, X, y).flags if flag.startswith("labels: ")]
        assert bool(said) == (finite == 60 and y is not Y)
        table = evaluate(model, (X, y), {"pgd": PGD}, batch_size=size, draws=draws)
        assert table.remarks == said
        assert ("labels" in table.verdict) == bool(said)
        assert table.failed.sum() == 60 - finite


def test_what_explains_a_figure_is_said() -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 3))
    constant[1].bias.data, even = torch.tensor([0.0, 50.0, 0.0]), torch.arange(60) % 3
    for model, y in ((constant, even), (constant, even * 0 + 1), (Sick(X[:1], constant), even)):
        verdict = evaluate(model, (X, y), {"pgd": PGD}).verdict
        assert verdict.startswith("The model predicts one class for all images. ") == bool((y != 1).any())


@torch.no_grad()
def by_query(x: torch.Tensor) -> torch.Tensor:
    return NET(x)


FEW, SQUARE = (X[:20], Y[:20]), partial(fa.attacks.square, threat=fa.Linf(0.08), queries=500)
BOXES: dict[str, Any] = {
    "no_grad": by_query,
    "numpy": lambda x: torch.from_numpy(by_query(torch.from_numpy(x.numpy())).numpy()),
    "decisions": lambda x: nn.functional.one_hot(by_query(x).argmax(1), 3).float(),
    "module": nn.Sequential(Detach(), NET),
}


@pytest.mark.slow
@pytest.mark.parametrize("box", BOXES)
def test_a_black_box_is_not_masked(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, {"square": {"queries": 1000}})
    ran = [[SQUARE], [partial(fa.attacks.hopskipjump, threat=fa.L2(0.3), queries=500)]]
    if box != "module":
        ran += [[SQUARE, PGD], [partial(fa.attacks.autoattack, threat=fa.Linf(0.08))]]
    for attacks in ran:
        table = evaluate(BOXES[box], FEW, attacks)
        assert (table.headline, signs(table).black_box, signs(table).forwards <= 16) == ("", True, True)
        assert table.verdict == "Inconclusive: no gradient (a black box); searched by queries alone"
        assert not re.search("mask|softmax|bpda", str(table))
    unsearched = evaluate(BOXES[box], FEW, [partial(SQUARE, queries=20)])
    assert unsearched.verdict.endswith("run square or hopskipjump, 500 queries or more")
    assert not signs(unsearched).black_box


def test_a_module_that_is_asked_for_a_gradient_is_masked() -> None:
    cut = BOXES["module"]
    for model, attacks in ((cut, [PGD, SQUARE]), (MASKED, [SQUARE]), (lambda x: MASKED(x), [SQUARE])):
        table = evaluate(model, FEW, attacks)
        assert table.headline.startswith("Not a robust accuracy: gradients are masked")
    for given in ({"square": SQUARE(cut, X, Y)}, None):
        found = fa.attacks.indicators(cut, X, Y, fa.Linf(0.08), results=given)
        assert ("incorrect_gradient" in found.flagged) == (given is None)


def test_a_black_box_that_answers_at_random_is_judged_by_draws() -> None:
    noisy = partial(evaluate, lambda x: by_query(x + 0.3 * torch.randn_like(x)), SET, [SQUARE])
    assert noisy().verdict.endswith("Next: classify each sample several times (draws=20)")
    said = r"Randomized: .* 20 draws \(eot=1\)\. Inconclusive: no gradient"
    assert re.match(said, noisy(draws=20).verdict)
