"""Logistic regression in every way of section 5: what is measured, that it resumes, and what it shows."""

import math

import pytest
import torch
from torch.nn.functional import softplus

import fastadv as fa
from fastadv.data import ImageSet
from papers.goodfellow2014 import logistic as study
from papers.goodfellow2014.recipes import RobustLogistic, WeightDecayL1


def two(split):
    data = fa.data.load("digits", split)
    assert isinstance(data, ImageSet)
    return data.only([3, 7])


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
