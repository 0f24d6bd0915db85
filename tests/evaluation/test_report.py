"""The report of an evaluation: what stands in the page, what is left out, and that it needs nothing else."""

import io
import json
import math
import re
import sys
from base64 import b64decode
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastadv as fa
from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.masking.flags import Cost
from fastadv.errors import InputError, MissingExtraError
from fastadv.evaluation import Curve, evaluate, report
from fastadv.evaluation.report import chart, grid, verdict
from fastadv.evaluation.report import page as report_page
from fastadv.evaluation.report.pictures import magnified, png
from fastadv.evaluation.row import Components, groups
from tests.evaluation.nets import DATA, Threshold, pgd
from tests.evaluation.reports import Read, table_of

HEADINGS = [
    "Verdict", "Signs of masked gradients", "Attacks", "Accuracy against radius", "Attacks by classes",
    "Gallery at the median distance", "Hardest samples", "Cost", "What to cite", "Provenance",
]  # fmt: skip


def written(folder, table, **more):
    report(table, folder / "r.html", **more)
    return Read(folder / "r.html")


@pytest.mark.slow
def test_the_page_tells_what_was_measured(tmp_path):
    table = evaluate(Threshold(), DATA, {"pgd": pgd(0.25)}, keep_samples=True)
    about = {"command": "fastadv evaluate", "seed": 7, "data": {"name": "pixels", "note": None}}
    about = {"class_names": DATA.classes, "provenance": about, "title": "one pixel"}
    curve = Curve(np.array([0, 0.1, 0.25]), np.array([4, 4, 2]) / 6)
    page = written(tmp_path, table, model=Threshold(), curves={"pgd": curve}, **about)
    low, high = (f"{100 * end:.1f}%" for end in table["pgd"].accuracy_interval)
    held = f"Robust accuracy 33.3% (95% interval {low} to {high}) within L∞ 0.25: 2 of 6 samples stay correct"
    assert f"{held} under pgd." in page.text
    plain = "2 of 6 images (33%) stay correct when each pixel may change by 0.25 (25% of its range)."
    assert plain in page.text
    assert re.search(r"pgd\s*66.7% → 33.3%", page.text)
    assert '<pre class="again">fastadv evaluate</pre>' in page.source
    assert re.findall(r"@inproceedings{(\w+)", page.text) == ["madry2018"]
    assert re.search(r"Run it again:\s*fastadv evaluate\s*seed\s*7\s*data: name\s*pixels", page.text)
    assert "data: note" not in page.text
    assert "of NIST AI 100-2 E2025 this page measures white-box evasion (pgd). Article 15" in page.text
    assert "dark seen as light" in page.text
    with pytest.raises(InputError, match="class_names: expected 2, got 3; name every class"):
        written(tmp_path, table, model=Threshold(), class_names=["a", "b", "c"])
    # held at 0.4 and 0.3 from the boundary, where the margin changes by twice the step
    held = re.findall(r"sample (\d), held, clean margin (-[\d.]+)", page.text)
    assert held == [("3", "-0.8"), ("2", "-0.6")]
    assert json.loads(page.data["measured"]) == json.loads(json.dumps(table.to_dict()))


def test_each_norm_has_a_gallery_of_its_own_nearest_examples(tmp_path):
    """Of one pixel, at 0.1, 0.2, 0.3 and 0.4 from the boundary, both norms are the same number."""
    l2 = partial(fa.attacks.pgd, threat=fa.L2(0.35), steps=5, step_size=0.1)
    attacks = {"near": pgd(0.15), "l2": l2, "far": pgd(0.25)}
    table = evaluate(Threshold(), DATA, attacks, keep_samples=True, batch_size=4)
    near, wide, far = table.rows
    linf, l2 = (table.by_norm[row.threat.metric] for row in (near, wide))
    assert (linf.by.tolist(), l2.by.tolist()) == ([0, 2, -1, -1, -1, -1], [1, 1, 1, -1, -1, -1])
    assert torch.equal(linf.distance[:2], torch.stack([near.distance[0], far.distance[1]]))
    assert torch.equal(l2.distance[:3], wide.distance[:3])
    for kept in (linf, l2):
        moved = (kept.x_adv - kept.x).abs().flatten()
        assert torch.allclose(moved.double()[kept.by >= 0], kept.distance[kept.by >= 0])
        assert bool((Threshold()(kept.x_adv).argmax(1) != kept.y)[kept.by >= 0].all())
    assert evaluate(Threshold(), DATA, {"near": pgd(0.15)}, keep_samples=True).by_norm == {}
    page = written(tmp_path, table, model=Threshold())
    assert re.findall("<h3>(.*?)</h3>", page.source) == ["L∞", "L2"]
    assert len(page.elements("img")) == 3 * 2 + 3 * 3 + 1, "the last one held"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("whole"), table_of(60), bounds=torch.full((60,), 0.015).double())


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_else(whole):
    page = whole
    assert [page.tags[0][0], len(page.elements("h1"))] == ["html", 1]
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h\d", name)]
    assert levels == [1, *[2] * len(HEADINGS)]
    places = [page.source.index(f">{heading}</h2>") for heading in HEADINGS]
    assert places == sorted(places)
    named = [element["id"] for _, element in page.tags if "id" in element]
    assert len(named) == len(set(named))
    links = [element["href"] for element in page.elements("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(named)
    pictures = page.elements("img")
    assert len(pictures) == 3 * 8 + 6
    assert all(element["alt"] and element["src"].startswith("data:image/png;base64,") for element in pictures)
    assert all(element.get("role") == "img" or element.get("aria-hidden") for element in page.elements("svg"))
    assert all(element["type"] == "application/json" for element in page.elements("script"))
    assert not re.search(r"https?:|@import|url\(", page.source)
    assert "default-src 'none'" in page.source


@pytest.mark.slow
def test_names_are_text_and_never_tags(tmp_path):
    evil, table = "</script><script>alert('é 数')</script>", table_of(30)
    rows = (replace(table.rows[0], name=evil, flags=(evil,)), table.rows[1])
    page = written(
        tmp_path, replace(table, rows=rows), title=evil, class_names=[evil] * 10, provenance={evil: evil}
    )
    assert len(page.elements("script")) == 1
    assert json.loads(page.data["measured"])["attacks"][0]["label"] == evil
    assert page.text.count(evil) > 10


def first(table, **changes):
    return replace(table, rows=(replace(table.rows[0], **changes), *table.rows[1:]))


LEFT_OUT = {
    "no attack": (lambda table: replace(table, rows=(), indicators=None), "no attack was run, so that"),
    "no samples": (lambda table: replace(table, samples=None), "the table keeps no labels; evaluate with"),
    "no threat": (lambda table: first(table, threat=None), "in a threat that the attacks do not tell: "),
    "two norms": (lambda table: first(table, threat=fa.L2(0.5)), "the attacks are of several norms"),
    "one radius": (lambda table: replace(table, rows=table.rows[:1]), "Not measured: no attack searched"),
}


@pytest.mark.slow
def test_what_was_not_measured_is_left_out_in_words(whole, tmp_path):
    for case, (change, words) in LEFT_OUT.items():
        assert words not in whole.text, case
        assert words in written(tmp_path, change(table_of(9))).text, case


@pytest.mark.slow
def test_inputs_that_are_no_images_and_values_that_are_no_numbers(tmp_path):
    for shape in ((5,), (4, 6, 6), ()):
        page = written(tmp_path, table_of(9, shape))
        assert f"inputs of shape {list(shape)} are no gray or color images" in page.text
        assert page.elements("img") == []
    assert len(written(tmp_path, table_of(9, (1, 5, 9))).elements("img")) == 3 * 6 + 6
    one = replace(table_of(1), indicators=None)
    assert "0.0% (95% interval 0.0% to 97.5%) within L∞ 0.1: 0 of 1" in written(tmp_path, one).text
    table = table_of(9)
    table.samples.x[:] = math.nan
    for row in table.rows:
        row.distance[2] = math.nan
    page = written(tmp_path, table)
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", page.source), re.IGNORECASE)


@pytest.mark.slow
def test_attacks_above_and_bounds_below(whole):
    page = whole
    assert "20 of 60 samples stay correct under pgd and fmn, and 0.0% are proved to." in page.text
    (between,) = [element for element in page.elements("polygon") if element["class"] == "between"]
    heights = [float(point.split(",")[1]) for point in between["points"].split()]
    low, high = heights[: len(heights) // 2], heights[len(heights) // 2 :][::-1]
    # downwards in a drawing: attacks leave all but what they broke, proved is all up to 0.015
    assert all(above <= below for above, below in zip(low, high, strict=True))
    line = r'<th scope="row" class="name">(0[.\d]*)</th>.*<td>([\d.]+)%[^<]*</td></tr>'
    shown = re.findall(line, page.source)
    proved = {float(radius): float(share) for radius, share in shown}
    assert proved[0.0] == 100
    assert {share for radius, share in proved.items() if radius > 0.015} == {0}


def test_bounds_of_wrong_samples_prove_nothing():
    """Of six samples two are wrong, one breaks, and of the others two have a bound of the radius."""
    table = evaluate(Threshold(), DATA, {"pgd": pgd(0.15)}, indicators=False)
    text = verdict.sentence(table, groups(table.rows)[0], torch.tensor([0.1, 0.2, 0.15, 0.1, 1.0, 1.0]))
    assert text.endswith(": 3 of 6 samples stay correct under pgd, and 33.3% are proved to.")


def test_a_picture_holds_the_pixels():
    for channels in (1, 3):
        image = torch.arange(channels * 6).reshape(channels, 2, 3) / (channels * 6)
        read = np.asarray(Image.open(io.BytesIO(b64decode(png(image).partition(",")[2]))))
        assert np.array_equal(read.reshape(2, 3, channels), (image * 255).round().permute(1, 2, 0).numpy())
    less, same, more = magnified(torch.tensor([[[-0.1, 0.0, 0.1]]]), 10.0)[:, 0].T
    assert (less[2] > less[0], same.tolist(), more[0] > more[2]) == (True, [1, 1, 1], True)


def test_wrong_arguments(tmp_path, monkeypatch):
    table, path = table_of(9), tmp_path / "r.html"
    path.write_text("the last one")
    for more, says in (
        ({"path": tmp_path / "r.pdf"}, "path: expected a name ending in .html"),
        ({"table": {"a": table}}, "table: expected what fa.evaluate returned, got dict"),
        ({"bounds": torch.zeros(8)}, r"bounds: expected \[9\]"),
        ({"bounds": torch.full((9,), math.nan)}, "with NaN"),
    ):
        with pytest.raises(InputError, match=says):
            report(**{"table": table, "path": path, **more})
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"reports need jinja2.*pip install jinja2"):
        report(table, path)
    assert path.read_text() == "the last one"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def both_kinds():
    """PGD at 0.1 and FMN at any radius on six samples of two classes, 0 1 0 1 0 1: neither breaks all."""
    table, inf, edge = table_of(6, classes=2), math.inf, 0.10001  # more than its radius, by rounding
    distances = torch.tensor([[edge, *[inf] * 5], [inf, 0.1, 0.04, 0.3, 0.2, inf]]).double()
    rows = zip(table.rows, distances, strict=True)
    return replace(table, rows=tuple(replace(row, broken=far < inf, distance=far) for row, far in rows))


ALLOWED = {  # of images of three colors and 8x8 pixels, 192 values
    fa.Linf(8 / 255): "each color value may change by 8/255 (3% of its range)",
    fa.Linf(0.1, box=(-1.0, 1.0)): "each color value may change by 0.1 (5% of its range)",
    fa.L2(1.5): "their change has at most the L2 norm 1.5 (as much as every color value by 11% of its range)",
    fa.L1(6.0, box=(0.0, 2.0)): "their change has at most the L1 norm 6 (as much as 3 color values by their "
    "whole range)",
    fa.L0(5): "any 5 of 192 color values may change",
}


@pytest.mark.parametrize("threat", ALLOWED, ids=lambda threat: threat.norm)
def test_each_norm_in_plain_words(threat):
    table = table_of(30)
    rows = (replace(table.rows[0], threat=threat),)
    text = verdict.plainly(replace(table, rows=rows), groups(rows)[0])
    assert text == f"At most 20 of 30 images (67%) stay correct when {ALLOWED[threat]}."
    gray = replace(table, rows=rows, samples=replace(table.samples, x=table.samples.x[:, :1]))
    assert "pixel" in verdict.plainly(gray, groups(rows)[0])


def test_each_row_has_a_kind_of_attack_in_the_terms_of_standards():
    kinds = {
        "white-box evasion": ("pgd", "apgd"), "black-box evasion by scores": ("square",),
        "black-box evasion by decisions": ("boundary",), "evasion by transfer": ("transfer", "grey_box"),
        "evasion": ("mine",),
    }  # fmt: skip
    row = table_of(6).rows[0]
    rows = [replace(row, name=f"its {one}", attack=one) for names in kinds.values() for one in names]
    text = verdict.standards(replace(table_of(6), rows=tuple(rows)))
    told = [f"{kind} ({', '.join(f'its {one}' for one in names)})" for kind, names in kinds.items()]
    assert f"measures {'; '.join(told)}. Article 15 " in text
    assert "in paragraph 5, as adversarial examples or evasion. Poisoning" in text


def test_every_paper_has_an_entry_and_those_that_ran_are_cited():
    row = table_of(9).rows[0]
    named = set(re.findall(r"arXiv\s+(\d+\.\d+)", " ".join(card.run.__doc__ for card in REGISTRY.values())))
    bib = (Path(report_page.__file__).parent / "papers.bib").read_text()
    assert set(re.findall(r"eprint = {(.+)}", bib)) == named
    cost = Cost(9, 3, 9, 9, 0.1)
    parts = Components(torch.zeros(9).long(), {"apgd-ce": cost, "last fab-t": cost, "square": cost})

    def keys(**changes):
        return [re.findall(r"{(\w+)", entry)[0] for entry in report_page.bibtex([replace(row, **changes)])]

    assert keys() == keys(method="mine") == []
    assert keys(method="AutoAttack standard", components=parts) == [
        "andriushchenko2020", "croce2020minimally", "croce2020reliable",
    ]  # fmt: skip
    assert keys(method="square", threat=fa.L1(3.0)) == ["andriushchenko2020", "croce2021mind"]
    assert keys(method="AutoAttack strong") == ["croce2020reliable", "melamed2024"]
    assert keys(method="AutoAttack robustvlm") == ["croce2020reliable", "schlarmann2024"]


def test_attacks_with_a_budget_and_without_one_count_together():
    """By hand: PGD breaks sample 0 at 0.1, FMN samples 1 and 2 within it; beyond it FMN breaks 4 and 3."""
    table = both_kinds()
    (budget, endless) = groups(table.rows)
    assert groups(table.rows[::-1])[0].threat == budget.threat, "those with a budget first"
    assert "3 of 6 samples stay correct under pgd and fmn." in verdict.sentence(table, budget, None)
    shown = [line[2].split()[0] for line in grid.attacks(table)[1][1:]]
    assert shown == ["100.0%", "83.3%", "-", "50.0%"], "no accuracy without a radius"
    assert "Median distance to an adversarial example 0.15 in" in verdict.sentence(table, endless, None)
    known = [row.distance.where(torch.arange(6) > 0, math.nan) for row in table.rows]
    rows = tuple(replace(row, distance=far) for row, far in zip(table.rows, known, strict=True))
    assert "over 5 samples" in verdict.sentence(replace(table, rows=rows), groups(rows)[1], None)
    endless.rows[0].distance[1] += 1e-8  # what rounding to float32 adds
    assert budget.held(table.rows).sum() == 3
    endless.rows[0].distance[1] = 0.1
    drawn = chart.chart(table, budget, {}, None)
    _, (head, *cells) = drawn.grid
    assert [*drawn.curves] == head[1:] == ["all attacks"]
    # the axis ends before 0.3
    shares = dict.fromkeys(cell.split("%")[0] for _, cell in cells)
    assert [*shares] == ["100.0", "83.3", "50.0", "33.3"]
    boxed = replace(table.rows[0], threat=fa.Linf(0.1, box=(-1.0, 1.0)))
    assert len(groups((*table.rows, boxed))) == 3, "one group for each box"
    drawn = chart.chart(table, budget, {"pgd": Curve(np.array([0.0, 0.1]), np.array([1.0, 0.9]))}, None)
    assert drawn.marks == [], "what has a curve needs no mark"
    (mark,) = chart.chart(table, groups(table.rows)[0], {}, None).marks  # of PGD; FMN has a line
    assert (mark.title, mark.robust_accuracy) == ("pgd", 5 / 6)
    _, (_, _, line) = drawn.grid
    assert [cell.split("%")[0] for cell in line] == ["0.1", "50.0", "90.0"]


def test_each_class_under_attacks_of_both_kinds():
    """Those without a radius count within that of the others, else within their median distance."""
    table = both_kinds()
    pgd, fmn = table.rows
    names, third = ("even", "odd"), pytest.approx(1 / 3)
    two = pytest.approx(2 / 3)

    def heat(changed, names=None, threat=pgd.threat):
        attacks, lines = grid.heat(changed, names, threat)
        return attacks[1:], {name: shares for name, _, shares in lines}

    attacks, shares = heat(table, names)
    assert attacks == ["pgd", "fmn within 0.1", "worst of all"]
    assert [*shares.items()] == [("even", [1, two, two, third]), ("odd", [1, 1, two, two])]
    _, shares = heat(replace(table, samples=replace(table.samples, y=1 - table.samples.y)), names)
    assert [*shares] == ["odd", "even"], "the worst first"
    lost = ~table.held & (table.samples.y == 1)  # before any attack it is worse, and after all of them better
    _, shares = heat(replace(table, correct=~lost), names)
    assert [*shares.items()] == [("even", [1, two, two, third]), ("odd", [two] * 4)]
    wide = replace(fmn, name="wide", threat=fa.Linf(0.3))  # a larger budget breaks 3 and 4, too
    attacks, shares = heat(replace(table, rows=(pgd, fmn, wide)))
    assert attacks[2:] == ["wide within 0.1", "worst of all"]
    assert [line[-1] for line in shares.values()] == [third, two]
    attacks, _ = heat(replace(table, rows=(pgd, fmn, replace(wide, threat=fa.L2(2.0)))))
    assert attacks[2:] == ["wide", "union"], "the radius is that of another norm"
    attacks, shares = heat(replace(table, rows=(fmn,)), threat=fmn.threat)
    assert (attacks, [line[1] for line in shares.values()]) == (["fmn within 0.25"], [third, two])
