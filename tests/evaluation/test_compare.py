"""Several models side by side: paired differences by hand, seeds, and what cannot be compared."""

from dataclasses import replace

import pytest
import torch

import fastadv as fa
from fastadv.attacks import WrongBy
from fastadv.attacks.masking import Indicators
from fastadv.evaluation import compare
from fastadv.text import percent
from tests.refusals import refuses

THREAT = fa.Linf(0.05)
DIGITS = fa.data.load("digits", "test", limit=60)


@pytest.fixture(scope="module")
def tables():
    nets = [fa.models.create("softmax", shape=DIGITS.shape, seed=seed) for seed in range(3)]
    attacks = [["fgsm", "bim"], ["fgsm", "pgd"], ["fgsm", "bim"]]
    return [fa.evaluate(net, DIGITS, own, threat=THREAT) for net, own in zip(nets, attacks, strict=True)]


def test_a_difference_is_that_of_the_same_samples(tables):
    first, second, _ = tables
    (difference,) = compare({"a": first, "b": second}).differences.values()
    both = torch.stack([first.held, second.held]).int().tolist()
    pairs = list(zip(*both, strict=True))
    alone, first_alone = pairs.count((0, 1)), pairs.count((1, 0))
    assert (difference.alone, difference.first_alone) == (alone, first_alone)
    assert alone * first_alone > 0
    assert difference.mean == pytest.approx(second.worst_case - first.worst_case)
    assert difference.interval[0] < difference.mean < difference.interval[1]
    assert torch.equal(first.y, DIGITS.y)
    turned = {name: getattr(second, name).flip(0) for name in ("correct", "failed", "ids", "y")}
    rows = [replace(row, correct=row.correct.flip(0), broken=row.broken.flip(0)) for row in second.rows]
    shuffled = replace(second, rows=tuple(replace(r, distance=r.distance.flip(0)) for r in rows), **turned)
    assert compare({"a": first, "b": shuffled}).differences["b"] == difference


def test_a_row_for_each_model_and_a_column_for_each_attack(tables):
    first, second, _ = tables
    comparison = compare({"a_1": first, "b": second})
    head, *lines = comparison.paper_cells()
    assert head == ["model", "clean", "FGSM", "BIM", "PGD", "worst of all", "difference", "alone", "p"]
    assert [line[4] for line in lines] == ["-", percent(second["pgd"].robust_accuracy)]
    assert [line[3] for line in lines] == [percent(first["bim"].robust_accuracy), "-"]
    assert lines[0][-3:] == ["-", "-", "-"]
    latex = comparison.to_latex(["clean", "worst of all"]).splitlines()
    assert latex[-4] == rf"a\_1 & {first.clean_accuracy:.1%} & {first.worst_case:.1%} \\".replace("%", r"\%")
    assert "FGSM" in str(comparison)
    assert comparison.records()[0]["PGD"] is None
    masked = replace(second, indicators=Indicators({"zero_gradient": 1.0}))
    assert str(compare({"a": first, "b": masked})).startswith(f"b: {masked.headline}\n")


def test_seeds_have_means_and_deviations(tables):
    first, second, third = tables
    comparison = compare({"a": first, "b": [second, third]})
    (_, record), difference = comparison.records(), comparison.differences["b"]
    shares = torch.tensor([second.worst_case, third.worst_case], dtype=torch.float64)
    assert record["worst of all"] == pytest.approx(float(shares.mean()))
    assert record["worst of all deviation"] == pytest.approx(float(shares.std()))
    assert difference.mean == pytest.approx(float(shares.mean()) - first.worst_case)
    assert difference.p is difference.alone is None
    assert f"± {100 * float(shares.std()):.1f}%" in str(comparison)
    assert "over seeds" in str(comparison)


def test_other_samples_threats_and_criteria_are_refused(tables):
    first, second, _ = tables
    elsewhere = fa.Linf(0.06), fa.L2(0.05), fa.Linf(0.05, box=(-1, 1))
    net = fa.models.create("softmax", shape=DIGITS.shape)
    others = {
        "samples": [replace(second, ids=second.ids + 1), replace(second, y=(second.y + 1) % 10)],
        "threats": [fa.evaluate(net, DIGITS, "fgsm", threat=threat) for threat in elsewhere],
        "an accuracy under attack": [replace(second, unserved=("L1 1",))],
    }
    others["threats"].append(replace(second, criterion=WrongBy(1.0)))
    for what, wrong in others.items():
        for table in wrong:
            refuses(f"tables: expected .*{what}", compare, {"a": first, "b": table})
    for tables in ({"a": first}, [first, second]):
        refuses("tables: expected those of two models or more", compare, tables)
    for wrong, got in (
        ([], "list with 0 tables"),
        (net, "Regression with 0"),
        ([first, net], "list with 1 table;"),
    ):
        refuses(f"tables: expected what fa.evaluate returned for b.*{got}", compare, {"a": first, "b": wrong})


def test_threats_that_are_not_known_are_named(tables):
    first, second, _ = tables
    assert not any("not known" in text for text in compare({"a": first, "b": second}).asides)
    net, radii = fa.models.create("softmax", shape=DIGITS.shape), torch.linspace(0.01, 0.1, len(DIGITS))
    several = [fa.evaluate(net, DIGITS, "fgsm", threat=fa.Linf(scale * radii)) for scale in (1, 2)]
    comparison = compare({"a": several[0], "b": several[1]})
    assert "not compared: the threats of a (fgsm), b (fgsm)" in str(comparison)
    assert "\nfgsm: within L∞, a radius for each sample\n" in str(several[0])
