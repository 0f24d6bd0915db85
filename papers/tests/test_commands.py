"""The command lines of the papers: what they print, write, resume and refuse."""

import json
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from papers import command, smoothing
from papers.goodfellow2014 import __main__ as goodfellow
from papers.goodfellow2014.paper import PARTS
from papers.schott2018 import __main__ as schott
from papers.tests.schott import FakeAttacks, FakeSubjects, image_set


class Done(NamedTuple):
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys):
    """run("ilyas2019 theory --seed 1", code=0): the command ends with that code."""

    def call(line, code=0):
        paper, *arguments = line.split()
        capsys.readouterr()
        home = f"papers.{paper}" if paper in ("smoothing", "training") else f"papers.{paper}.__main__"
        found = command.main(import_module(home).parser(), arguments)
        done = Done(*capsys.readouterr())
        assert found == code, done
        if code == 2:
            assert (done.out, done.err.count("\n"), done.err[:8]) == ("", 1, "papers: ")
        return done

    return call


SCHOTT = "schott2018 --data-dir . --models cnn,abs --norms l2 --samples 4 --run-dir run"


@pytest.fixture
def tiny(monkeypatch):
    made = FakeAttacks().installed(partial(monkeypatch.setattr, raising=False))
    monkeypatch.setattr(schott, "Subjects", lambda *given, **options: FakeSubjects())
    monkeypatch.setattr(schott, "load_images", lambda *given, **options: image_set())
    return made


@pytest.mark.slow
def test_schott_prints_its_tables_names_its_files_and_goes_on_with_resume_alone(run, tiny, folder):
    done = run(SCHOTT)
    for text in ("Schott et al. 2018 on 4 test images", "2.24", "80%", "Push", "Latent descent", "published"):
        assert text in done.out
    assert "Flip" not in done.out
    for name in ("published.png", "all.png", "smallest_l2.png", "results.json", "report.md"):
        assert str(Path("run") / name) in done.out
        assert (folder / "run" / name).stat().st_size > 0
    stored = json.loads((folder / "run" / "results.json").read_text())
    assert stored["config"]["models"] == ["cnn", "abs"]
    calls = len(tiny.calls)
    assert "--resume" in run(SCHOTT, 2).err
    assert run(f"{SCHOTT} --resume --json").json["measured"]["least"] == stored["measured"]["least"]
    assert len(tiny.calls) == calls


@pytest.mark.slow
def test_a_stop_says_how_to_go_on(run, tiny, monkeypatch):
    monkeypatch.setattr(fa.attacks, "jolt", Mock(side_effect=KeyboardInterrupt))
    done = run(SCHOTT, 130)
    assert "interrupted; finished batches are kept in run; add --resume to continue" in done.err


def test_missing_weights_are_named(run, folder):
    (folder / "abs_official").mkdir()
    torch.save(fa.models.create("cnn").state_dict(), folder / "abs_official" / "vanilla_cnn.net")
    told = run("schott2018 --data-dir . --models cnn,binary_cnn,abs", 2).err
    for name in ("abs_official/binary_cnn.net", "abs_official/ABS_9.net", "AnalysisBySynthesis"):
        assert name in told
    assert "vanilla_cnn" not in told


@pytest.mark.slow
def test_two_parts_of_goodfellow(run, monkeypatch, folder):
    def load(name, split, data_dir):
        assert (name, data_dir) == ("digits", None)
        return fa.data.load("digits", split, limit=150 if split == "train" else 100)

    monkeypatch.setattr(goodfellow, "load_images", load)
    line = "goodfellow2014 --scale tiny --run-dir run --parts"
    done = run(f"{line} agreement,weights,agreement")
    for text in ("Agreement", "Weights", "Networks", "pixels that a unit looks at", "84.60%", "weights.png",
                 "100 test images", "report.md"):  # fmt: skip
        assert text in done.out
    assert done.out.count("rbf says softmax's class where both are wrong") == 1
    told = run(f"{line} agreement --json").json
    assert told == json.loads((folder / "run" / "results.json").read_text())
    assert told["config"]["parts"] == ["agreement"]
    assert set(told["measured"]["nets"]) == {"maxout", "softmax", "rbf"}
    assert "got one with another seed" in run(f"{line} agreement --seed 1", 2).err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("schott2018 --models cnn,vgg", "vgg"),
        ("schott2018 --samples 0", "expected at least 1 and"),
        ("goodfellow2014 --scale tiny --parts fgsm,fgms", f"some of {', '.join(PARTS)}, got fgms"),
        ("ilyas2019 features --radius inf", "radius: expected a finite number > 0, got inf"),
        ("ilyas2019 pipeline --scale gpu --architecture resnet19", "got resnet19"),
        ("ilyas2019 pipeline --stages nets,set", "got set"),
        ("training --seeds 5", "--seeds and --images: expected --budget"),
        ("training --device nowhere", "'nowhere' is not there"),
        ("smoothing --seed -1", "expected at least 0 and"),
        ("smoothing --wrong", "unrecognized arguments: --wrong; see python -m papers.smoothing --help"),
    ],
)
def test_bad_arguments(run, folder, line, says):
    assert says in run(line, 2).err
    assert not list(folder.rglob("*.*"))


def test_a_tiny_study_of_smoothing_keeps_what_is_given(run, monkeypatch):
    asked = []

    def called(settings, *rest, **more):
        asked.append(settings)
        raise InputError("run: expected no more, got a call")

    monkeypatch.setattr(smoothing, "run", called)
    run("smoothing --tiny", 2)
    line = "-n 3 --draws 50 --epochs 2 --sigmas 0.25,1 --recipes smoothadv --seed 4 --precision bf16"
    run(f"smoothing --tiny {line}", 2)
    given = {"samples": 3, "draws": 50, "epochs": 2, "sigmas": (0.25, 1.0), "recipes": ("smoothadv",)}
    assert asked == [smoothing.TINY, replace(smoothing.TINY, **given, seed=4, precision="bf16")]
