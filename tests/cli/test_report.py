"""`fastadv evaluate --report`: the page that is written, and what is refused before the work."""

import json
import sys

import pytest

from fastadv.cli._evaluate import OF_THE_DATA
from fastadv.data import load
from tests.evaluation.reports import Read


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_the_page_is_that_of_the_evaluation(fastadv, folder, net, monkeypatch):
    line = f"evaluate {net} -n 40 --radius 0.1 --steps 3 -a pgd -a fmn --seed 3 --radii 0,0.05,0.1"
    line += " --report r.html"
    monkeypatch.setattr(sys, "argv", ["fastadv", *line.split()])
    assert fastadv(line).out.endswith("report in r.html\n")
    page = Read(folder / "r.html")
    assert "small_cnn on digits test" in page.text
    assert f"fastadv {line}" in page.text
    data = load("digits", "test", limit=40).describe()
    assert all(str(data[key]) in page.text for key in OF_THE_DATA if key not in ("shape", "note"))
    assert "attack=pgd, norm=linf, radius=0.1, seed=3, steps=3" in page.text
    told = fastadv(line, "--json").json["measured"]
    kept = json.loads(page.data["measured"])
    assert kept["attacks"].keys() == told["attacks"].keys()
    assert (kept["worst_case"], kept["clean_accuracy"]) == (told["worst_case"], told["clean_accuracy"])
    assert len(page.each("polyline")) == 2  # the curves


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_shards_are_merged_before_there_is_a_report(fastadv, folder, refused):
    line = "evaluate -m softmax --data digits -n 20 --radius 0.1 -a fgsm --batch-size 10 --run-dir"
    refused(f"{line} a --shard 0/2 --report r.html", "--report is of all images: give it without --shard")
    for rank in range(2):
        fastadv(f"{line} {rank} --shard {rank}/2")
    fastadv("merge 0 1 --out a")
    fastadv(f"{line} a --resume --report r.html")
    assert len(Read(folder / "r.html").each("img")) > 6


def test_what_cannot_be_written_is_refused_before_the_work(folder, refused, monkeypatch):
    line = "evaluate -m softmax --data nowhere --radius 0.1 --report"
    refused(f"{line} r.pdf", "expected a name ending in .html, got 'r.pdf'")
    (folder / "file").touch()
    refused(f"{line} file/r.html", "cannot be written in")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    told = refused(f"{line} r.html", "reports need jinja2, which is not installed: pip install", code=1)
    assert told.endswith("'fastadv[report]'")
