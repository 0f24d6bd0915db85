"""Tables for papers and other programs, and means over seeds."""

import csv
import io
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import fastadv as fa
from fastadv.evaluation.export import published
from tests.refusals import refuses

THREAT = fa.Linf(0.1)


@pytest.fixture(scope="module")
def table():
    digits = fa.data.load("digits", "test")
    model = fa.models.create("softmax", shape=digits.shape, seed=0)
    attacks = {"fgsm": "fgsm", "a_b & 50%": partial(fa.attacks.fgsm, threat=fa.Linf(0.2)), "ddn": "ddn"}
    attacks["ddn"] = partial(fa.attacks.ddn, threat=fa.L2(float("inf")), steps=5)
    return fa.evaluate(model, digits, attacks, threat=THREAT, limit=40)


def test_csv_holds_what_the_table_says(table, tmp_path: Path) -> None:
    text = table.to_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == text
    none, fgsm, other, ddn, *worst = csv.DictReader(io.StringIO(text))
    assert (none["attack"], float(none["accuracy"])) == ("none", table.clean_accuracy)
    assert (fgsm["attack"], other["attack"], ddn["attack"]) == ("FGSM", "a_b & 50%", "DDN")
    row = table["fgsm"]
    assert (float(fgsm["accuracy"]), float(fgsm["broken"])) == (row.robust_accuracy, row.success_rate)
    assert (fgsm["norm"], float(fgsm["radius"]), int(fgsm["forwards"])) == ("linf", 0.1, row.forwards)
    assert (ddn["accuracy"], ddn["radius"]) == ("", "")
    assert float(ddn["median_distance"]) == pytest.approx(table["ddn"].median_distance)
    assert [float(one["accuracy"]) for one in worst] == [*table.worst_cases.values()]


def test_latex_escapes_and_chooses_columns(table) -> None:
    text = table.to_latex(["accuracy", "broken"])
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[1:3] == [r"\toprule", r"attack & accuracy & broken \\"]
    assert any(line.startswith(r"a\_b \& 50\% & ") for line in lines)
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    counts = {line.replace(r"\&", "").count("&") for line in lines if line.endswith(r"\\")}
    assert counts == {2}
    assert table.to_latex().count(r"\\") == len(table.cells())
    refuses("columns: expected some of", table.to_latex, ["accurasy"])


@pytest.mark.parametrize(
    ("name", "paper"),
    [("pgd", "PGD"), ("cw", "C&W"), ("AutoAttack standard", "AutoAttack standard"), ("mine_too", "mine too")],
)
def test_names_as_papers_write_them(name: str, paper: str) -> None:
    assert published(name) == paper


def test_pandas_gets_the_records(table, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = ModuleType("pandas")
    pandas.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    monkeypatch.setattr("fastadv.evaluation.export.need", lambda package: None)
    assert table.to_pandas() == table.records()


def test_mean_and_deviation_over_tables() -> None:
    def of(accuracy: float, n: int = 10, name: str = "PGD") -> SimpleNamespace:
        lines = [{"attack": "none", "accuracy": 1.0}, {"attack": name, "accuracy": accuracy}]
        return SimpleNamespace(n=n, records=lambda: lines)

    found = fa.evaluation.over_seeds([of(0.2), of(0.4), of(0.6)])
    none, pgd = found.records()
    assert (pgd["mean"], pgd["deviation"]) == (pytest.approx(0.4), pytest.approx(0.2))
    assert (pgd["least"], pgd["most"], pgd["seeds"], none["deviation"]) == (0.2, 0.6, 3, 0)
    assert "40.0% ± 20.0" in str(found)
    assert r"40.0\% $\pm$ 20.0" in found.to_latex()
    for wrong in ([], [of(0.2)], [of(0.2), of(0.4, n=11)], [of(0.2), of(0.4, name="FGSM")]):
        refuses("tables: expected two or more", fa.evaluation.over_seeds, wrong)
