"""`fastadv evaluate`: the verdict, replaced gradients, and the report."""

import json
import re
import sys

import pytest

from fastadv.cli._evaluate import OF_THE_DATA
from fastadv.data import load
from tests.evaluation.reports import Read

LINE = "-n 60 -a pgd:steps=300,stop_early=false --radius 0.05"


@pytest.mark.slow
def test_the_last_line_is_the_verdict(fastadv, net):
    done = fastadv(f"evaluate {net} {LINE} --strict")
    assert re.fullmatch(r"No sign of masking \(\d+ samples probed\)", done.out.splitlines()[-1])
    assert "masking" not in fastadv(f"evaluate {net} {LINE} --no-indicators").out


@pytest.mark.slow
def test_doubt_is_exit_code_3_where_asked(fastadv, net, refused):
    line = f"evaluate {net} -n 20 -a pgd:steps=20,step_size=0.0001 --radius 0.02"
    fastadv(line)
    done = fastadv(f"{line} --strict", code=3)
    verdict = done.out.splitlines()[-1]
    assert verdict.startswith("Do not trust: incomplete")
    assert done.err == ""
    assert fastadv(f"{line} --strict --json", code=3).json["measured"]["indicators"]["verdict"] == verdict
    few = fastadv(f"evaluate {net} -n 4 -a pgd:steps=300,stop_early=false --radius 0.05 --strict", code=3)
    assert few.out.splitlines()[-1].startswith("Not known, nothing flagged so ")
    refused(f"{line} --strict --no-indicators", "--strict is about the indicators")


BPDA = "-m small_cnn -o width=4 --data digits --samples 16 -a fgsm --radius 0.1"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["attack", "evaluate"])
def test_results_say_what_was_replaced(fastadv, command):
    plain = fastadv(f"{command} {BPDA} --json").json
    assert (plain["measured"]["bpda"], plain["config"]["bpda"]) == ({}, None)
    given = "--bpda features.2=identity --bpda features.5=torch.nn.functional:softplus"
    told = fastadv(f"{command} {BPDA} --json {given}").json
    assert told["measured"]["bpda"] == {"features.2": "identity", "features.5": "softplus"}
    assert told["config"]["bpda"] == ["features.2=identity", "features.5=torch.nn.functional:softplus"]
    assert told["measured"]["clean_accuracy"] == plain["measured"]["clean_accuracy"]
    shown = " ".join(fastadv(f"{command} {BPDA} --bpda features.2=identity").out.split())
    assert "BPDA: features.2 (identity)" in shown


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("features.2", "expected PATTERN=identity or PATTERN=package.module:name, got 'features.2'"),
        ("features.2=straight", "expected PATTERN=identity or PATTERN=package.module:name"),
        ("=identity", "expected PATTERN=identity or PATTERN=package.module:name"),
        ("features.2=identity --bpda features.2=torch:sin", "features.2 is given twice; leave one out"),
        ("features.2=no.such:thing", "No module named 'no'; put its folder on PYTHONPATH"),
        ("features.2=torch:nothing", "put its folder on PYTHONPATH or install the package"),
        ("feature.2=identity", "did you mean 'features.2'"),
        ("features.2=torch:pi", "expected 'identity', a function or a network"),
    ],
)
def test_what_is_refused(refused, given, says):
    refused(f"evaluate {BPDA} --bpda {given}", says)


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
