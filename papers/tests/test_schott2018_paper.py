"""The study of Schott et al. 2018 with tiny models: kept batch by batch, resumed, never mixed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fastadv.errors import InputError
from papers.schott2018 import figures, paper
from papers.schott2018.plan import Settings
from papers.tests.schott import FakeSubjects, image_set

SETTINGS = Settings(samples=8, models=("cnn", "binary_abs", "abs"))
CNN = Settings(samples=8, models=("cnn",))


def study(folder, settings=SETTINGS, resume=False):
    return paper.run(settings, FakeSubjects(), image_set(), folder, resume=resume)["measured"]


@pytest.mark.slow
def test_the_result_holds_every_figure_and_is_read_again_with_resume_alone(attacks, tmp_path, monkeypatch):
    measured = study(tmp_path)
    assert {(c["model"], c["norm"], c["attack"]) for c in measured["cells"]} == {
        *((model, norm, name) for model in SETTINGS.models for norm, name in
          (("l2", "Push"), ("linf", "Flip"), ("l2", "Jolt"))),
        ("abs", "l2", "Latent descent"),
        ("binary_abs", "l2", "Latent descent"),
    }  # fmt: skip
    for cell in measured["cells"]:
        assert cell["seconds"] > 0
    assert {(b["model"], b["norm"]) for b in measured["bounds"]} == {
        (model, norm) for model in ("abs", "binary_abs") for norm in ("l2", "linf")
    } | {("binary_abs", "l0")}
    assert json.loads((tmp_path / "results.json").read_text())["measured"]["least"] == measured["least"]
    for path in measured["figures"].values():
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert len(measured["figures"]) == 4
    page = (tmp_path / "report.md").read_text()
    assert "| L2 1.5 | Binary ABS |" in page
    assert "| median, all | accuracy, all | bound |\n| --- | --- | ---: | ---: |" in page
    assert "Push" in page
    assert "(smallest_l2.png)" in page
    with pytest.raises(InputError, match="resume"):
        study(tmp_path)
    attacks.calls = []
    monkeypatch.setattr(figures, "draw", lambda *given: {})
    assert study(tmp_path, resume=True)["least"] == measured["least"]
    assert attacks.calls == []


@pytest.mark.slow
def test_more_images_begin_with_those_done(attacks, undrawn, tmp_path):
    few = study(tmp_path, replace(CNN, samples=6))
    attacks.calls = []
    more = study(tmp_path, CNN, resume=True)
    assert all(len(ids) == 2 for _, ids in attacks.calls)
    for line, longer in zip(few["least"], more["least"], strict=True):
        assert longer["all"]["distances"][:6] == line["all"]["distances"]
        assert len(longer["all"]["distances"]) == 8
