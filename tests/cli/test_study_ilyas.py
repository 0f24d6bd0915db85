"""`fastadv study ilyas`: what it prints, writes and refuses."""

import json
from collections.abc import Callable

import pytest

from fastadv.studies.ilyas2019 import figures
from tests.cli.conftest import Done

Command = Callable[..., Done]


@pytest.mark.slow
def test_features_prints_a_line_for_each_net(fastadv, folder):
    line = "study ilyas features --tiny --steps 1 --run-dir run"
    done = fastadv(line)
    assert done.code == 0, done
    for text in ("standard", "adversarial", "non-robust", "rho >= 0.1", "L2 0.2", "features.png"):
        assert text in done.out
    assert (folder / "run" / "features.png").stat().st_size > 0
    told = json.loads(fastadv(f"{line} --radius 0.3 --json").out)
    assert told["kind"] == "study ilyas features"
    assert told["config"]["radius"] == 0.3
    assert told["measured"]["nets"]["standard"]["thresholds"] == {"rho": 0.1, "gamma": 0.0}
    assert told == json.loads((folder / "run" / "results.json").read_text())


@pytest.mark.slow
def test_theory_fails_where_a_claim_does_not_hold(fastadv, folder):
    done = fastadv("study ilyas theory --radii 1 --samples 40 --epochs 1 --steps 1 --run-dir run")
    assert done.code == 1
    for text in ("theorem 1", "theorem 2", "theorem 3", "holds", "FAILS", "ellipses.png"):
        assert text in done.out
    assert (folder / "run" / "theorems.png").stat().st_size > 0


PIPELINE = "study ilyas pipeline --images 40 -n 6 --epochs 1 --invert-steps 1 --push-steps 1 --attack-steps 1"


@pytest.mark.slow
def test_the_pipeline_prints_its_tables_and_names_its_files(fastadv, refused, folder, monkeypatch):
    monkeypatch.setattr(figures, "gallery", lambda name, base, made, path: path.touch())
    done = fastadv(f"{PIPELINE} --stages nets,sets,train,evaluate,galleries --run-dir run")
    assert done.code == 0, done
    for text in ("images under PGD", "43.7%", "kept label", "the first 6", "D_det.png", "report.md"):
        assert text in done.out
    assert "Leakage" not in done.out
    again = fastadv(f"{PIPELINE} --stages sets --run-dir run --json")
    told = json.loads(again.out)
    assert list(told["measured"]) == ["nets", "sets", "train", "evaluate", "galleries"]
    assert told == json.loads((folder / "run" / "results.json").read_text())
    for line, text in (("--stages sets --seed 1", "another seed (0 there, 1 here)"),
                       ("--stages controls --epochs 2", "another epochs")):  # fmt: skip
        refused(f"{PIPELINE} {line} --run-dir run", text)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("theory --radii 0,1", "radii: expected"),
        ("theory --radii=-1", "expected"),
        ("theory --radii a", "number"),
        ("features --size 9", "--size"),
        ("pipeline --scale huge", "scale: expected one of tiny, cpu, paper"),
        ("pipeline --stages nets,set", "got set"),
        ("pipeline --epochs 0", "epochs"),
        ("pipeline --images 5000", "at most the 1442"),
        ("pipeline --images 40 --stages transfer", "nets/standard: expected the finished net standard"),
    ],
)
def test_bad_arguments(refused, line, says):
    refused(f"study ilyas {line}", says)
