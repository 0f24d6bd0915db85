"""`fastadv study schott` with tiny models: what it prints, writes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv.cli import _study_schott
from fastadv.studies.schott2018 import plan
from tests.cli.conftest import Done
from tests.studies.schott import METHODS, FakeAttacks, FakeSubjects, image_set

Command = Callable[..., Done]
LINE = "study schott --data-dir . --models cnn,abs --norms l2 --samples 4 --run-dir run"


@pytest.fixture
def tiny(monkeypatch):
    made = FakeAttacks()
    for name in ("push", "flip", "jolt"):
        monkeypatch.setattr(fa.attacks, name, getattr(made, name), raising=False)
    monkeypatch.setattr(plan, "METHODS", METHODS)
    monkeypatch.setattr(_study_schott, "Subjects", lambda *given, **options: FakeSubjects())
    monkeypatch.setattr(_study_schott, "load_data", lambda *given, **options: image_set())
    return made


@pytest.mark.slow
def test_it_prints_the_tables_names_the_files_and_goes_on_with_resume_alone(fastadv, refused, tiny, folder):
    done = fastadv(LINE)
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
    refused(LINE, "--resume")
    again = fastadv(f"{LINE} --resume --json").json["measured"]
    assert again["least"] == stored["measured"]["least"]
    assert len(tiny.calls) == calls


def test_a_stop_says_how_to_go_on(fastadv, tiny, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fa.attacks, "jolt", stopped)
    done = fastadv(LINE, code=130)
    assert "kept in run" in done.err
    assert "--resume" in done.err


@pytest.mark.slow
def test_a_failed_attack_is_an_exit_code(fastadv, tiny, monkeypatch):
    def broken(*given, **options):
        raise ValueError("no such luck")

    monkeypatch.setattr(fa.attacks, "jolt", broken)
    done = fastadv(LINE, code=1)
    assert "cnn l2 Jolt failed: ValueError: no such luck" in done.err
    assert "Push" in done.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--models cnn,vgg", "vgg"),
        ("--norms l2,l3", "l3"),
    ],
)
def test_wrong_usage(refused, options, says):
    refused(f"study schott {options}", says)


def test_missing_weights_are_named(refused, folder):
    (folder / "abs_official").mkdir()
    torch.save(fa.models.SchottCNN().state_dict(), folder / "abs_official" / "vanilla_cnn.net")
    line = "study schott --data-dir . --models cnn,binary_cnn,abs"
    told = refused(line, "github.com/bethgelab/AnalysisBySynthesis")
    for name in ("abs_official/binary_cnn.net", "abs_official/ABS_9.net", "vanilla_cnn"):
        assert (name in told) == name.startswith("abs_official")
