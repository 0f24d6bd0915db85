"""The figures of the study, its tables and curves, from distances made by hand."""

import math
from dataclasses import replace

import pytest
import torch

from papers.schott2018 import report
from papers.schott2018.plan import NORMS, Cell, Settings
from papers.schott2018.work import Done
from papers.tests.schott import FLIP, JOLT, PUSH


def made(*distances, cell, **others):
    """What a cell found in its norm; in other norms nothing near, unless `others` say so."""
    distance = torch.tensor(distances)
    x_adv = distance.nan_to_num(posinf=9.0).view(-1, 1, 1, 1) + torch.zeros(1, 1, 2, 2)
    far = {norm: torch.where(distance > 0, INF, 0.0) for norm in NORMS}
    given = {norm: torch.tensor(values) for norm, values in others.items()}
    return cell, Done({"x_adv": x_adv, **far, cell.method.norm: distance, **given}, 1.0)


INF = math.inf
OUTCOMES = dict(
    [
        made(0.0, 1.0, 3.0, INF, 1.5, cell=Cell("cnn", PUSH)),
        made(0.0, 2.0, 1.0, INF, INF, cell=Cell("cnn", replace(PUSH, name="Shove"))),
        made(0.0, 0.5, 2.0, 4.0, INF, cell=Cell("cnn", JOLT)),
        made(0.0, 0.1, 0.1, 0.1, 0.1, cell=Cell("cnn", FLIP), l2=[0.0, 5.0, 5.0, 3.5, 5.0]),
        made(0.0, 0.1, 0.1, 0.1, 0.1, cell=Cell("abs", PUSH)),
    ]
)


def test_the_smallest_perturbation_of_each_image_is_found_within_model_and_norm():
    ours = report.least(OUTCOMES, "cnn", "l2")
    assert ours.distance.tolist() == [0.0, 0.5, 1.0, 3.5, 1.5]
    assert ours.by == ["", "Jolt", "Shove", "Flip (L∞)", "Push"]
    assert ours.x_adv[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.5, 1.0, 0.1, 1.5])
    papers = report.least(OUTCOMES, "cnn", "l2", today=False)
    assert papers.distance.tolist() == [0.0, 1.0, 1.0, INF, 1.5]
    assert papers.by == ["", "Push", "Shove", "", "Push"]
    assert papers.x_adv[:, 0, 0, 0].tolist() == [0.0, 1.0, 1.0, 9.0, 1.5]
    assert report.least(OUTCOMES, "cnn", "linf", today=False) is None
    assert report.least(OUTCOMES, "cnn", "l0") is None
    assert report.least(OUTCOMES, "madry", "l2") is None


SMALLEST = report.smallest(OUTCOMES, Settings(models=("cnn", "abs"), norms=("l2", "l0")))


def of_model(model, norm):
    return report.of_model(norm, model, SMALLEST[norm, model])


def test_the_figures_of_a_model():
    found = of_model("cnn", "l2")
    assert found["paper"]["median"] == 1.0
    assert found["paper"]["accuracy"] == pytest.approx(1 / 5)  # at 1.5 exactly an image is broken
    assert found["all"]["median"] == 1.0
    assert found["all"]["distances"] == [0.0, 0.5, 1.0, 3.5, 1.5]
    assert found["paper"]["distances"][3] is None
    assert found["all"]["by"] == {"Jolt": 1, "Shove": 1, "Flip (L∞)": 1, "Push": 1}
    assert list(found["paper"]["by"].items()) == [("Push", 2), ("Shove", 1)]
    assert found["published"] == {"median": pytest.approx(1.0868, abs=1e-4), "accuracy": 0.08}
