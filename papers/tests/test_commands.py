"""`fastadv demo` and `fastadv study`: what they print, write and refuse."""

import json
import time
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

import fastadv as fa
from fastadv.cli import _studies
from fastadv.data import construct
from fastadv.errors import InputError
from papers import study
from papers.goodfellow2014.paper import PARTS
from papers.ilyas2019 import figures as ilyas_figures
from papers.ilyas2019 import plan as ilyas_plan
from papers.tests.ilyas import MINI
from papers.tests.schott import FakeAttacks, FakeSubjects, image_set


def nets(folder):
    return json.loads((folder / "results.json").read_text())["measured"]["nets"]


@pytest.mark.slow
def test_it_shows_six_nets_and_goes_on_to_the_same_figures_when_stopped(
    fastadv, refused, folder, monkeypatch
):
    def weights():
        return (folder / "d" / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns

    with monkeypatch.context() as patch:
        patch.setattr(construct, "non_robust", Mock(side_effect=KeyboardInterrupt))
        done = fastadv("demo --tiny --out d", code=130)
    assert done.err.count("\n") == 1
    assert "kept in d" in done.err
    kept = weights()
    assert not (folder / "d" / "results.json").exists()
    done = fastadv("demo --tiny --out d")
    assert weights() == kept
    shown = "standard", "adversarial", "D_R", "D_NR", "D_rand", "D_det", "Ilyas et al. 2019", "CIFAR-10"
    for name in shown:
        assert name in done.out
    drawn = sorted((folder / "d" / "figures").iterdir())
    assert len(drawn) == 5
    for path in drawn:
        assert str(path.relative_to(folder)) in done.out
        assert path.read_bytes().startswith(b"\x89PNG")
    first = nets(folder / "d")
    assert fastadv("demo --tiny --out d --json").json["measured"]["nets"] == nets(folder / "d") == first
    refused("demo --tiny --out d --seed 1", "choose another folder")


SCHOTT = "study schott --data-dir . --models cnn,abs --norms l2 --samples 4 --run-dir run"


@pytest.fixture
def tiny(monkeypatch):
    made = FakeAttacks().installed(partial(monkeypatch.setattr, raising=False))
    monkeypatch.setattr(_studies, "Subjects", lambda *given, **options: FakeSubjects())
    monkeypatch.setattr(_studies, "load_data", lambda *given, **options: image_set())
    return made


@pytest.mark.slow
def test_it_prints_the_tables_names_the_files_and_goes_on_with_resume_alone(fastadv, refused, tiny, folder):
    done = fastadv(SCHOTT)
    for text in ("Schott et al. 2018 on 4 test images", "2.24", "80%", "Push", "Latent descent", "published"):
        assert text in done.out
    assert "Flip" not in done.out
    for name in ("published.png", "all.png", "smallest_l2.png", "results.json", "report.md"):
        assert str(Path("run") / name) in done.out
        assert (folder / "run" / name).stat().st_size > 0
    stored = json.loads((folder / "run" / "results.json").read_text())
    assert stored["kind"] == "study schott"
    assert stored["config"]["models"] == ["cnn", "abs"]
    calls = len(tiny.calls)
    refused(SCHOTT, "--resume")
    again = fastadv(f"{SCHOTT} --resume --json").json["measured"]
    assert again["least"] == stored["measured"]["least"]
    assert len(tiny.calls) == calls


def test_a_stop_says_how_to_go_on(fastadv, tiny, monkeypatch):
    monkeypatch.setattr(fa.attacks, "jolt", Mock(side_effect=KeyboardInterrupt))
    done = fastadv(SCHOTT, code=130)
    assert "kept in run" in done.err
    assert "--resume" in done.err


def test_missing_weights_are_named(refused, folder):
    (folder / "abs_official").mkdir()
    torch.save(fa.models.SchottCNN().state_dict(), folder / "abs_official" / "vanilla_cnn.net")
    line = "study schott --data-dir . --models cnn,binary_cnn,abs"
    told = refused(line, "github.com/bethgelab/AnalysisBySynthesis")
    for name in ("abs_official/binary_cnn.net", "abs_official/ABS_9.net", "vanilla_cnn"):
        assert (name in told) == name.startswith("abs_official")


TINY = "study goodfellow --scale tiny --run-dir run"


@pytest.fixture
def few(monkeypatch):
    """A few of the digits, which must be what tiny asks for."""

    def load(name, split, data_dir):
        assert (name, data_dir) == ("digits", None)
        return fa.data.load("digits", split, limit=150 if split == "train" else 100)

    monkeypatch.setattr(_studies, "load_data", load)


@pytest.mark.slow
def test_two_parts_of_the_study(fastadv, refused, few, folder):
    done = fastadv(f"{TINY} --parts", "agreement, weights,agreement")
    for text in ("Agreement", "Weights", "Networks", "pixels that a unit looks at", "84.60%", "weights.png",
                 "100 test images", "report.md"):  # fmt: skip
        assert text in done.out
    assert done.out.count("rbf says softmax's class where both are wrong") == 1
    assert "Rubbish" not in done.out
    told = fastadv(f"{TINY} --parts agreement --json").json
    assert told == json.loads((folder / "run" / "results.json").read_text())
    assert told["config"]["parts"] == ["agreement"]
    assert set(told["measured"]["nets"]) == {"maxout", "softmax", "rbf"}
    refused(f"{TINY} --parts agreement --seed 1", "got one with another seed")


PIPELINE = "study ilyas pipeline"


@pytest.mark.slow
def test_the_pipeline_prints_its_tables_and_names_its_files(fastadv, refused, folder, monkeypatch):
    monkeypatch.setattr(ilyas_figures, "gallery", lambda name, base, made, path: path.touch())
    monkeypatch.setitem(ilyas_plan.SCALES, "tiny", replace(MINI, near=False, tested=6))
    done = fastadv(f"{PIPELINE} --stages nets,sets,train,evaluate,galleries --run-dir run")
    for text in ("images under PGD", "43.7%", "kept label", "the first 6", "D_det.png", "report.md"):
        assert text in done.out
    assert "Leakage" not in done.out
    told = fastadv(f"{PIPELINE} --stages sets --run-dir run --json").json
    assert list(told["measured"]) == ["nets", "sets", "train", "evaluate", "galleries", "seconds"]
    assert told == json.loads((folder / "run" / "results.json").read_text())
    refused(f"{PIPELINE} --stages sets --seed 1 --run-dir run", "another seed (0 there, 1 here)")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("schott --models cnn,vgg", "vgg"),
        ("schott --norms l2,l3", "l3"),
        ("goodfellow --scale huge", "no scale 'huge'; there are tiny, cpu, paper"),
        ("goodfellow --scale tiny --parts fgsm,fgms", f"parts: expected some of {', '.join(PARTS)}, got fgm"),
        ("ilyas features --radius a", "number"),
        ("ilyas features --radius inf", "radius: expected a finite number > 0, got inf"),
        ("ilyas pipeline --scale huge", "no scale 'huge'; there are tiny, cpu, gpu, paper"),
        ("ilyas pipeline --scale gpu --architecture resnet19", "did you mean 'resnet18'"),
        ("ilyas pipeline --stages nets,set", "got set"),
    ],
)
def test_bad_arguments(refused, folder, line, says):
    refused(f"study {line}", says)
    assert not list(folder.rglob("*.*"))


def test_a_tiny_study_of_smoothing_keeps_what_is_given(fastadv, monkeypatch):
    study, asked = _studies.study, []

    def run(settings, *rest, **more):
        asked.append(settings)
        raise InputError("run: expected no more, got a call")

    monkeypatch.setattr(study, "run", run)
    fastadv("study smoothing --tiny", code=2)
    line = "-n 3 --draws 50 --epochs 2 --sigmas 0.25,1 --recipes smoothadv --seed 4 --precision bf16"
    fastadv(f"study smoothing --tiny {line}", code=2)
    given = {"samples": 3, "draws": 50, "epochs": 2, "sigmas": (0.25, 1.0), "recipes": ("smoothadv",)}
    assert asked == [study.TINY, replace(study.TINY, **given, seed=4, precision="bf16")]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["training", "ilyas pipeline"])
def test_a_budget_reaches_the_study(fastadv, folder, monkeypatch, command):
    hours = SimpleNamespace(monotonic=partial(next, count(0, 3600)), perf_counter=time.perf_counter)
    monkeypatch.setattr(study, "time", hours)
    left = fastadv(f"study {command} --budget 60 --run-dir {folder / 'runs'} --json").json["measured"]["left"]
    assert len(left) > 5
