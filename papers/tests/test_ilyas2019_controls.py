"""The controls of the pipeline and its transfer, against cases whose answers are known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastadv.data import ImageSet
from papers.ilyas2019 import controls, pipeline
from papers.ilyas2019.plan import TABLE, Architecture, Training
from papers.tests.ilyas import MINI


class Says(nn.Module):
    """A net whose class is the first pixel times 10."""

    def __init__(self, add=0):
        super().__init__()
        self.add = nn.Parameter(torch.tensor(float(add)))

    def forward(self, x):
        wanted = (10 * x.flatten(1)[:, :1] + self.add).round() % 10
        return -(wanted - torch.arange(10)).abs()


def images(first, y):
    """Images whose first pixel holds a class."""
    x = torch.zeros(len(first), 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor(first) / 10
    return ImageSet(x, torch.tensor(y), 10, "told")


def maker(base, test, nets, sets):
    def taught(name, learned, training, **options):
        asked[name] = learned, training
        return nets[name]

    asked: dict[str, Any] = {}
    given: dict[str, Any] = {"net": nets.__getitem__, "set": sets.__getitem__, "taught": taught}
    return SimpleNamespace(base=base, test=test, settings=replace(MINI, near=False), asked=asked, **given)


def test_fooling_counts_images_whose_label_was_changed():
    made: Any = images([1, 2, 3, 4, 5], [1, 2, 7, 7, 5])
    made.original_labels = torch.tensor([0, 2, 3, 4, 4])  # the second keeps its label
    made.figures = {"predicted": torch.tensor([1, 2, 7, 0, 5])}
    found = controls.fooling(maker(made, made, {"independent": Says()}, {"D_rand": made, "D_det": made}))
    assert found["D_det"]["source"] == {"label": 3 / 4, "true": 0.0}
    # it reads 1, 2, 3, 4, 5: the first and the last as the set says, the third and fourth as they were
    assert found["D_rand"]["independent"] == {"label": 0.5, "true": 0.5}


def test_mistakes_of_an_early_net_are_a_training_set():
    base, test = images([1, 2, 3, 4], [1, 5, 3, 6]), images([1, 2, 3], [1, 2, 4])
    of = maker(base, test, {"early": Says(), "early labels": Says(add=1)}, {})
    found = controls.early_labels(of)
    learned, training = of.asked["early labels"]
    assert learned.y.tolist() == [2, 4]
    assert torch.equal(learned.x, base.x[[1, 3]])
    assert not training.augmented
    assert of.asked["early"][1].epochs == MINI.early_epochs
    assert found == {"epochs": 1, "early": pytest.approx(2 / 3), "images": 2, "taught": pytest.approx(1 / 3)}


def two_classes(count, gap, seed=0, side=4):
    """Classes 0 and 1 that differ by `gap` in the first of 16 pixels; the others are noise."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    x = 0.5 + 0.02 * torch.randn(count, side * side, generator=draw)
    x[:, 0] += gap * (y - 0.5)
    return ImageSet(x.clamp(0, 1).view(-1, 1, side, side), y, 2, "two")


@pytest.mark.slow
def test_a_linear_model_learns_what_its_directions_show():
    base, test = two_classes(400, gap=0.4), two_classes(200, gap=0.4, seed=1)
    directions = torch.eye(16)
    assert (controls.linear_model(base, test, directions[:1]) == test.y).double().mean() > 0.99
    assert 0.3 < (controls.linear_model(base, test, directions[1:2]) == test.y).double().mean() < 0.7
    flipped = ImageSet(base.x, 1 - base.y, 2, "flipped")
    assert (controls.linear_model(flipped, test, directions[:1]) == test.y).double().mean() < 0.01
    # without any direction it says what is most frequent
    mostly = ImageSet(base.x[:5], torch.tensor([1, 1, 1, 0, 0]), 2, "mostly")
    assert controls.linear_model(mostly, test, directions[:0]).tolist() == [1] * 200


class Knows(nn.Module):
    """A net that reads classes up to one, and says 0 to all others."""

    def __init__(self, most):
        super().__init__()
        self.most = nn.Parameter(torch.tensor(float(most)))

    def forward(self, x):
        seen = (10 * x.flatten(1)[:, :1]).round()
        return -(torch.where(seen > self.most, 0, seen) - torch.arange(10)).abs()


@pytest.mark.slow
def test_transfer_counts_what_the_source_lost_and_the_target_reads(monkeypatch):
    test = images([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7])
    attacked = images([1, 2, 8, 8, 8, 8, 8], test.y.tolist())  # the first two are as they were
    fooled = torch.tensor([False, True, True, True, True, True, False])
    monkeypatch.setattr(pipeline, "_adversarials", lambda of: (test, attacked, fooled))
    base, d_det, nets = images([1], [1]), images([2], [3]), dict[str, nn.Module]()
    for title, reads, taught in (("a", 3, 2), ("b", 4, 5), ("c", 6, 4), ("d", 0, 7)):
        nets |= {f"{title} on D": Knows(reads), f"{title} on D_det": Knows(taught)}
    of = maker(base, test, nets, {"D_det": d_det})
    of.settings = replace(MINI, others=tuple(Architecture(one, "softmax") for one in "abcd"))
    found = pipeline.transferred(of)
    points = {point.pop("architecture"): point for point in found["points"]}
    # of the five fooled ones it reads 2 and 3, and loses 3
    assert points["a"] == {"clean": 3 / 7, "accuracy": 2 / 7, "transfer": 1 / 2, "attacked": 2}
    assert points["c"] == {"clean": 6 / 7, "accuracy": 4 / 7, "transfer": 4 / 5, "attacked": 5}
    assert points["d"] == {"clean": 0.0, "accuracy": 1.0, "transfer": None, "attacked": 0}
    pairs = [(2 / 7, 1 / 2), (5 / 7, 2 / 3), (4 / 7, 4 / 5)]
    assert found["correlation"] == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1])
    for title in "abcd":
        assert of.asked[f"{title} on D_det"] == (d_det, TABLE["fixed_shift"])
        assert of.asked[f"{title} on D"] == (base, Training())
