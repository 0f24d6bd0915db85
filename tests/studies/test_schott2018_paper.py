"""The study of Schott et al. 2018 with tiny models: kept batch by batch, resumed, never mixed."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import fastadv as fa
from fastadv.errors import InputError
from fastadv.studies.schott2018 import paper, report
from fastadv.studies.schott2018.plan import Settings
from tests.kills import killed_at
from tests.processes import finish, serve
from tests.studies.schott import FLIP, METHODS, PUSH, FakeAttacks, FakeSubjects, image_set

SETTINGS = Settings(samples=8, models=("cnn", "binary_abs", "abs"))


def study(folder: Path, settings: Settings = SETTINGS, resume: bool = False, **options) -> dict:
    options.setdefault("methods", METHODS)
    return paper.run(settings, FakeSubjects(), image_set(), folder, resume=resume, **options)["measured"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_loses_one_batch_at_most(
    attacks: FakeAttacks, undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study(tmp_path / "whole")
    expected, attacks.calls = attacks.calls, []
    with monkeypatch.context() as patch:

        def stop(*args: object, **options: object) -> None:
            if len(attacks.calls) == 5:
                raise KeyboardInterrupt
            return flip(*args, **options)

        flip = attacks.flip
        patch.setattr(fa.attacks, "flip", stop)
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / "run")
    stopped, attacks.calls = attacks.calls, []
    again = study(tmp_path / "run", resume=True)
    assert stopped + attacks.calls == expected
    for line, same in zip(again["least"], whole["least"], strict=True):
        assert line == same
    attacks.calls = []
    study(tmp_path / "run", resume=True)
    assert attacks.calls == []


def killed(rank: int, world: int, folder: Path) -> None:
    """What a process does that is killed after two cells."""
    made = FakeAttacks()
    for name in ("push", "flip", "jolt"):
        setattr(fa.attacks, name, getattr(made, name))
    paper.BATCH_SIZE = 3
    killed_at(4, "before")
    study(folder, Settings(8, ("cnn",), ("l2", "linf")))


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    [(code, _, err)] = finish(serve(killed, tmp_path, 1, tmp_path / "run"))
    assert code == -signal.SIGKILL, err
    kept = sorted((tmp_path / "run" / "cells").glob("*/*.safetensors"))
    assert len(kept) == 4  # of two cells with three batches each
    before = {path: path.stat().st_mtime_ns for path in kept}
    made = FakeAttacks()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("push", "flip", "jolt"):
            patch.setattr(fa.attacks, name, getattr(made, name), raising=False)
        patch.setattr(paper, "BATCH_SIZE", 3)
        study(tmp_path / "run", Settings(8, ("cnn",), ("l2", "linf")), resume=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert len(made.calls) == 9 - 4
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.slow
def test_a_folder_with_work_is_refused_without_resume(
    attacks: FakeAttacks, undrawn: None, tmp_path: Path
) -> None:
    study(tmp_path)
    with pytest.raises(InputError, match="resume"):
        study(tmp_path)


@pytest.mark.slow
def test_more_images_begin_with_those_done(attacks: FakeAttacks, undrawn: None, tmp_path: Path) -> None:
    few = study(tmp_path, replace(SETTINGS, samples=6))
    attacks.calls = []
    more = study(tmp_path, resume=True)
    assert all(len(ids) == 2 for _, ids in attacks.calls)
    for line, longer in zip(few["least"], more["least"], strict=True):
        assert longer["all"]["distances"][:6] == line["all"]["distances"]
        assert len(longer["all"]["distances"]) == 8


@pytest.mark.slow
def test_the_result_holds_every_figure(attacks: FakeAttacks, tmp_path: Path) -> None:
    measured = study(tmp_path)
    assert {(c["model"], c["norm"], c["attack"]) for c in measured["cells"]} == {
        *((model, norm, name) for model in SETTINGS.models for norm, name in
          (("l2", "Push"), ("linf", "Flip"), ("l2", "Jolt"))),
        ("abs", "l2", "Latent descent"),
        ("binary_abs", "l2", "Latent descent"),
    }  # fmt: skip
    for cell in measured["cells"]:
        if cell["attack"] != "Latent descent":
            assert (cell["forwards"], cell["backwards"]) == (24, 8)
        assert cell["seconds"] > 0
    assert {(b["model"], b["norm"]) for b in measured["bounds"]} == {
        (model, norm) for model in ("abs", "binary_abs") for norm in ("l2", "linf")
    } | {("binary_abs", "l0")}
    assert json.loads((tmp_path / "results.json").read_text())["measured"]["least"] == measured["least"]
    for path in measured["figures"].values():
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert len(measured["figures"]) == 5
    page = (tmp_path / "report.md").read_text()
    assert "| L2 1.5 | Binary ABS |" in page
    assert "| median, all | accuracy, all | bound |\n| --- | --- | ---: | ---: |" in page
    assert "Push" in page
    assert "(smallest_l2.png)" in page


def test_what_fails_is_named_and_the_others_go_on(
    attacks: FakeAttacks, undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise InputError("expected what nobody has")

    monkeypatch.setattr(fa.attacks, "flip", broken)
    settings = replace(SETTINGS, models=("cnn",))
    measured = study(tmp_path, settings, methods=(FLIP, PUSH))
    assert list(measured["failed"]) == ["cnn linf Flip"]
    assert "nobody has" in measured["failed"]["cnn linf Flip"]
    assert [cell["attack"] for cell in measured["cells"]] == ["Push"]
    text = " ".join(report.notes(measured))
    assert "expected what nobody has" in text


def test_more_images_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most the 8 of fake, got 9"):
        study(tmp_path, replace(SETTINGS, samples=9))


def test_missing_weights_are_noticed_first(attacks: FakeAttacks, undrawn: None, tmp_path: Path) -> None:
    subjects = FakeSubjects()
    paper.run(Settings(3, ("cnn",)), subjects, image_set(), tmp_path / "a", methods=(PUSH,))
    assert subjects.checked == ["cnn"]

    def refuse(names: list[str]) -> None:
        raise InputError("weights: no file")

    subjects.check = refuse
    attacks.calls = []
    with pytest.raises(InputError, match="no file"):
        paper.run(Settings(3, ("cnn",)), subjects, image_set(), tmp_path / "b", methods=(PUSH,))
    assert attacks.calls == []
    assert not (tmp_path / "b").exists()
