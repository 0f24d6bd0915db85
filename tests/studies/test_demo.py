"""The demo's table and sentences from figures made by hand, its folder, and its one thread."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.studies import demo
from fastadv.studies.study import TINY, Study


def test_a_stopped_run_goes_on_another_is_cleared_away_and_what_no_demo_made_is_left_alone(tmp_path):
    parts = [tmp_path / part for part in demo.PARTS]
    for part in parts:
        part.mkdir()
        with pytest.raises(InputError, match="another folder"):
            demo._prepare(tmp_path, TINY)
        part.rmdir()
    demo._prepare(tmp_path, TINY)
    assert not demo.unfinished(TINY, tmp_path)  # nothing was done yet
    for made in parts:
        made.mkdir()
    (tmp_path / "mine.txt").touch()
    assert demo.unfinished(TINY, tmp_path)
    demo._prepare(tmp_path, TINY)
    assert all(part.exists() for part in parts)
    other = type(TINY)(seed=1)
    assert not demo.unfinished(other, tmp_path)
    (tmp_path / "results.json").touch()
    assert not demo.unfinished(TINY, tmp_path)
    demo._prepare(tmp_path, other)
    assert not any(part.exists() for part in parts)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["mine.txt", "settings.json"]


SAID = {"clean": 0.9, "robust": 0.75, "samples": 40, "lower_bound": 0.234}


@pytest.mark.slow
def test_figures_equal_the_library(tmp_path):
    settings = replace(TINY, samples=100, abs_epochs=2, abs_samples=5)
    study = Study(settings, tmp_path)
    model, told = demo.synthesis(study, lambda what, done, total: None)
    part = study.test.subset(torch.arange(5))
    pgd = partial(fa.attacks.pgd, threat=fa.L2(settings.l2_radius), steps=settings.attack_steps)
    latent = partial(fa.attacks.latent_descent, steps=51, schedule="line_search")
    table = fa.evaluate(model, part, {"pgd": pgd, "latent": latent})
    assert told["clean"] == fa.evaluate(model, study.test).clean_accuracy
    assert told["robust"] == table["pgd"].robust_accuracy
    assert told["latent_descent"] == pytest.approx(table["latent"].median_distance)
    assert told["lower_bound"] == pytest.approx(float(model.lower_bound(part.x, part.y).mean()))
    assert told["samples"] == 5
    assert told["robust"] != told["clean"]


def test_the_sentences_hold_every_figure():
    lines = " ".join(demo.synthesis_found({**SAID, "latent_descent": 0.857}, "PGD L2 0.4"))
    assert "reads 90.0% of the digits and keeps 75.0% of 40 under PGD L2 0.4" in lines
    assert "at L2 0.86 in the median; lower bounds average 0.23." in lines
    lines = demo.synthesis_found({**SAID, "latent_descent": None}, "PGD L2 0.4")
    assert "less than half of its decisions" in lines[1]
