"""Logistic regression in every way of section 5: what is measured, that it resumes, and what it shows."""

import json
import math

import pytest
import torch
from torch.nn.functional import softplus

import fastadv as fa
from fastadv.data import ImageSet
from papers.goodfellow2014 import logistic as study
from papers.goodfellow2014.logistic import CLOSED, FGSM
from papers.goodfellow2014.recipes import RobustLogistic, WeightDecayL1

DECAYS = (0.0025, 0.25)


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """One coefficient, and half of the steps."""
    monkeypatch.setattr(study, "COEFFICIENTS", (0.01,))
    monkeypatch.setattr(study, "BATCH_SIZE", 64)


def two(split):
    data = fa.data.load("digits", split)
    assert isinstance(data, ImageSet)
    return data.only([3, 7])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Of enough epochs for what the paper says to show."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("COEFFICIENTS", DECAYS), ("BATCH_SIZE", 32), ("LEARNING_RATE", 0.5)):
            patch.setattr(study, name, value)
        folder = tmp_path_factory.mktemp("study")
        return study.logistic(two("train"), two("test"), folder, radius=0.25, epochs=4)


@pytest.mark.slow
def test_closed_form_and_fgsm_training_are_equal_to_rounding(told):
    assert told["apart"] < 1e-9
    rows = [told["nets"][name]["rows"] for name in (FGSM, CLOSED)]
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in other.items() if k != "seconds"}, rel=1e-8
        )
    assert told["faster"] > 0
    assert json.loads(json.dumps(told)) == told


def test_what_the_paper_says_of_the_penalties(told):
    nets = {name: net["rows"] for name, net in told["nets"].items()}
    assert nets["plain"][-1]["clean"] < 0.05
    assert nets[CLOSED][-1]["fgsm"] < nets["plain"][-1]["fgsm"] - 0.1
    pulls = [row["pull"] for row in nets[CLOSED]]
    assert pulls[-1] < pulls[0] < 0.25
    assert {row["pull"] for row in nets["L1 decay 0.25"]} == {0.25}
    norms = [nets[f"L1 decay {c:g}"][-1]["norm"] for c in DECAYS]
    assert norms == sorted(norms, reverse=True)
    assert nets["L1 decay 0.25"][-1]["clean"] > nets["plain"][-1]["clean"]  # much too strong


def test_a_row_by_hand():
    train_set, test_set = two("train"), two("test")
    model = fa.models.LogisticRegression((1, 8, 8), seed=4).double()
    with torch.no_grad():
        model.linear.weight.mul_(8)
    w, b = model.linear.weight[0].detach(), model.linear.bias.item()
    ball = fa.Linf(0.1, (-math.inf, math.inf))

    def margins(data):
        return (data.x.flatten(1).double() @ w + b) * (2 * data.y - 1)

    row = study._row(model, RobustLogistic(ball), train_set, test_set, ball)
    norm, margin = w.abs().sum(), margins(train_set)
    assert row["norm"] == pytest.approx(float(norm))
    assert row["margin"] == pytest.approx(float(margin.mean()))
    # the derivative by |w|_1, by finite differences
    more = softplus(0.1 * (norm + 1e-6) - margin).mean() - softplus(0.1 * norm - margin).mean()
    assert row["pull"] == pytest.approx(float(more) / 1e-6, rel=1e-4)
    tested = margins(test_set)
    assert row["clean"] == pytest.approx(float((tested <= 0).double().mean()))
    assert row["fgsm"] == pytest.approx(float((tested <= 0.1 * norm).double().mean()))
    decay = study._row(model, WeightDecayL1(0.3), train_set, test_set, ball)
    assert decay["pull"] == 0.3
