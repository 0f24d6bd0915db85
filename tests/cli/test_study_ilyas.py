"""`fastadv study ilyas`: what it prints, writes and refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from fastadv.studies.ilyas2019 import figures, plan, theory
from tests.cli.conftest import Done
from tests.studies.ilyas import MINI

Command = Callable[..., Done]


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_features_prints_a_line_for_each_net(fastadv, folder):
    line = "study ilyas features --tiny --run-dir run"
    done = fastadv(line)
    for text in ("standard", "adversarial", "non-robust", "rho >= 0.1", "L2 0.2", "features.png"):
        assert text in done.out
    assert (folder / "run" / "features.png").stat().st_size > 0
    told = fastadv(f"{line} --radius 0.3 --json").json
    assert told["kind"] == "study ilyas features"
    assert told["config"]["radius"] == 0.3
    assert told["measured"]["nets"]["standard"]["thresholds"] == {"rho": 0.1, "gamma": 0.0}
    assert told == json.loads((folder / "run" / "results.json").read_text())


@pytest.mark.slow
def test_theory_fails_where_a_claim_does_not_hold(fastadv, folder, monkeypatch):
    few = partial(theory.Settings, radii=(1.0,), samples=40, epochs=1, steps=1)
    monkeypatch.setattr(theory, "Settings", few)
    done = fastadv("study ilyas theory --run-dir run", code=1)
    for text in ("theorem 1", "theorem 2", "theorem 3", "holds", "FAILS", "ellipses.png"):
        assert text in done.out
    assert (folder / "run" / "theorems.png").stat().st_size > 0


PIPELINE = "study ilyas pipeline"


@pytest.mark.slow
def test_the_pipeline_prints_its_tables_and_names_its_files(fastadv, refused, folder, monkeypatch):
    monkeypatch.setattr(figures, "gallery", lambda name, base, made, path: path.touch())
    monkeypatch.setitem(plan.SCALES, "tiny", replace(MINI, near=False, tested=6))
    done = fastadv(f"{PIPELINE} --stages nets,sets,train,evaluate,galleries --run-dir run")
    for text in ("images under PGD", "43.7%", "kept label", "the first 6", "D_det.png", "report.md"):
        assert text in done.out
    assert "Leakage" not in done.out
    told = fastadv(f"{PIPELINE} --stages sets --run-dir run --json").json
    assert list(told["measured"]) == ["nets", "sets", "train", "evaluate", "galleries"]
    assert told == json.loads((folder / "run" / "results.json").read_text())
    refused(f"{PIPELINE} --stages sets --seed 1 --run-dir run", "another seed (0 there, 1 here)")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("features --radius a", "number"),
        ("features --radius inf", "radius: expected a finite number > 0"),
        ("pipeline --scale huge", "--scale is one of tiny, cpu, paper, got huge"),
        ("pipeline --stages nets,set", "got set"),
        ("pipeline --stages transfer", "ilyas2019: expected the finished stage nets"),
    ],
)
def test_bad_arguments(refused, line, says):
    refused(f"study ilyas {line}", says)
