"""Tables for papers and other programs."""

import csv
import io
import math
import re
import sys
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import torch

import fastadv as fa
from fastadv.attacks.masking import Indicators
from fastadv.evaluation.export import published
from tests.refusals import refuses

THREAT = fa.Linf(0.1)


@pytest.fixture(scope="module")
def table():
    digits = fa.data.load("digits", "test")
    model = fa.models.create("softmax", shape=digits.shape, seed=0)
    titled, ddn = partial(fa.attacks.fgsm, threat=fa.Linf(0.2)), partial(fa.attacks.ddn, steps=5)
    titled.title = "a_b & 50% #^~{$"  # type: ignore[attr-defined]
    attacks = {"fgsm": "fgsm", "other": titled, "ddn": partial(ddn, threat=fa.L2(float("inf")))}
    return fa.evaluate(model, digits, attacks, threat=THREAT, limit=40)


def test_csv_holds_what_the_table_says(table, tmp_path: Path) -> None:
    text = table.to_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == text
    none, fgsm, other, ddn, *worst = csv.DictReader(io.StringIO(text))
    assert (none["attack"], float(none["accuracy"])) == ("none", table.clean_accuracy)
    assert (fgsm["attack"], other["attack"], ddn["attack"]) == ("FGSM", "a_b & 50% #^~{$", "DDN")
    row = table["fgsm"]
    assert (float(fgsm["accuracy"]), float(fgsm["broken"])) == (row.robust_accuracy, row.success_rate)
    assert (fgsm["norm"], float(fgsm["radius"]), int(fgsm["forwards"])) == ("linf", 0.1, row.forwards)
    assert (ddn["accuracy"], ddn["radius"]) == ("", "")
    assert float(ddn["median_distance"]) == pytest.approx(table["ddn"].median_distance)
    assert [float(one["accuracy"]) for one in worst] == [*table.worst_cases.values()]
    assert replace(table, failed=~table.failed).records()[0]["failed"] == 40
    assert [len(replace(table, rows=table.rows[:some]).records()) for some in (1, 2)] == [2, 4]


def test_latex_escapes_and_chooses_columns(table) -> None:
    text = table.to_latex(["accuracy", "broken"])
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[1:3] == [r"\toprule", r"attack & accuracy & broken \\"]
    assert lines[6].startswith(r"a\_b \& 50\% \#\textasciicircum{}\textasciitilde{}\{\$ & ")
    assert lines[7:] == [r"DDN & -- & 100.0\% \\", lines[8], r"\bottomrule", r"\end{tabular}"]
    kept = [name for name in table.cells()[0][1:] if name not in ("forwards", "backwards", "seconds")]
    assert table.to_latex() == table.to_latex(kept) != table.to_latex(table.cells()[0][1:])
    threats = replace(table, rows=(replace(table["fgsm"], name="PGD-20 Linf 0.1"), table["ddn"]))
    assert "PGD-20 L$\\infty$ 0.1 & " in threats.to_latex()
    assert threats.records()[1]["attack"] == "PGD-20 L∞ 0.1"
    refuses("columns: expected some of", table.to_latex, ["accurasy"])


class Words(HTMLParser):
    """The words of HTML, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags = set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def test_a_notebook_shows_all_that_print_says(table) -> None:
    digits = fa.data.load("digits", "test", size=32, limit=20)
    net, x, y = fa.models.create("softmax", shape=digits.shape), digits.x[:8], digits.y[:8]
    evil = replace(table, rows=(replace(table.rows[0], heading="<b>&lt;</b>"), *table.rows[1:]))
    whole = fa.evaluate(net, digits, "pgd", threat=[THREAT, fa.L2(0.5)], audit=3, corruptions=["contrast"])
    trained = fa.train.fit(net, digits, "pgd", threat=THREAT, epochs=2, test_set=digits, test_attacks="fgsm")
    many, few = fa.Curve.from_distances(torch.rand(40)), fa.Curve.from_distances([0.5, 1.0])
    texts = (
        fa.attacks.pgd(net, x, y, THREAT), fa.attacks.autoattack(net, x, y, THREAT, version="quick"),
        fa.certify.smooth(net, digits, sigma=0.5, n=200, sound=False),
    )  # fmt: skip
    crossed = fa.transferability({"a": net}, {"b": net}, digits, partial(fa.attacks.fgsm, threat=THREAT))
    paired = fa.evaluation.compare({"a": whole, "b": whole})
    for result in (evil, whole, whole.corruption, paired, trained, crossed, many, few, *texts):
        read = Words(result._repr_html_())
        assert read.words == re.sub(r"(?m)^-+$", "", str(result)).split()
        assert read.tags <= {"table", "tr", "th", "td", "div", "br"}
        assert ("table" in read.tags) == (result not in texts)
    assert "&lt;b&gt;&amp;lt;" in evil._repr_html_()
    assert ("11 of 41 radii" in str(many), "radii" in str(few)) == (True, False)


def test_a_sign_of_masking_is_exported(table) -> None:
    masked = replace(table, indicators=Indicators({"zero_gradient": 1.0}))
    assert masked.to_latex().startswith(f"% {masked.headline}\n\\begin")
    assert {line["headline"] for line in csv.DictReader(io.StringIO(masked.to_csv()))} == {masked.headline}


def test_draws_and_corruptions_are_exported() -> None:
    digits = fa.data.load("digits", "test", size=32, limit=20)
    model = fa.models.create("softmax", shape=digits.shape, seed=0)
    noisy = torch.nn.Sequential(torch.nn.Dropout(0.3).eval(), model)
    noisy.forward = lambda x: model(x + 0.3 * torch.randn_like(x))  # type: ignore[method-assign]
    table = fa.evaluate(noisy, digits, ["fgsm", "bim"], threat=THREAT, draws=4, indicators=False)
    (shown,) = table.details().values()
    *_, worst = records = table.records()
    for line, cells in zip(records, shown[1:], strict=True):
        told = [fa.text.percent(line[name]) for name in ("accuracy", "majority", "worst_draw")]
        assert told == cells[1:]
    assert worst["attack"] == "worst of all"
    head, *lines = table.paper_cells()
    assert (head[1], head[-2:]) == ("one draw", ["majority", "worst of 4"])
    assert [[line[1], *line[-2:]] for line in lines] == [cells[1:] for cells in shown[1:]]
    near, short = (partial(fa.attacks.fmn, steps=steps) for steps in (20, 1))
    free = fa.evaluate(noisy, digits, {"a": near, "b": short}, threat=fa.L2(math.inf), draws=4)
    assert free.records()[-1]["majority"] == free["b"].draws.majority > free["a"].draws.majority
    digits = fa.data.load("digits", "test", limit=30, size=32)
    model = fa.models.create("softmax", shape=digits.shape, seed=0)
    table = fa.evaluate(model, digits, corruptions=["gaussian_noise", "fog"], severities=(1, 3))
    shares = table.corruption.accuracy.flatten().tolist()
    assert [line["accuracy"] for line in table.records()] == [table.clean_accuracy, *shares]
    assert table.records()[2]["attack"] == "gaussian_noise, severity 3"
    assert r"fog & " in table.corruption.to_latex()
    both = replace(table, rows=free.rows, correct=free.correct).to_latex(["95%"])
    assert both.count(r"\begin{tabular}{l") == 2
    assert both.index("\na & ") < both.index("fog & ")
    assert len(table.corruption.paper_cells()) == 4


def test_names_as_papers_write_them() -> None:
    papers = {"pdpgd": "PDPGD", "cw": "C&W", "AutoAttack q": "AutoAttack q", "o_n": "o n", "own": "own"}
    assert {name: published(name) for name in papers} == papers


def test_pandas_gets_the_records(table, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = ModuleType("pandas")
    pandas.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    monkeypatch.setattr("fastadv.evaluation.export.need", lambda package: None)
    assert table.to_pandas() == table.records()
