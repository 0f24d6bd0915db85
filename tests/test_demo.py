"""The demo's table and sentences from figures made by hand, and what it measures."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.demo import run as demo
from fastadv.demo.nets import TINY, Digits

SAID = {"clean": 0.9, "robust": 0.75, "samples": 40, "lower_bound": 0.234}


@pytest.mark.slow
def test_figures_equal_the_library(tmp_path):
    settings = replace(TINY, samples=100, abs_epochs=2, abs_samples=5)
    digits = Digits(settings, tmp_path)
    model, told = demo.synthesis(digits, lambda what, done, total: None)
    part = digits.test.subset(torch.arange(5))
    pgd = partial(fa.attacks.pgd, threat=fa.L2(settings.l2_radius), steps=settings.attack_steps)
    latent = partial(fa.attacks.latent_descent, steps=51, schedule="line_search")
    table = fa.evaluate(model, part, {"pgd": pgd, "latent": latent})
    assert told["clean"] == fa.evaluate(model, digits.test).clean_accuracy
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
