"""How localized first-layer weights are: closed forms, which weights these are, and the picture."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import fastadv as fa
from fastadv.studies.goodfellow2014 import weights as study
from tests.studies.goodfellow import linear, reader


def test_the_effective_number_of_pixels_in_closed_form():
    one, all_, two = torch.zeros(3, 1, 5, 7)
    one[0, 2, 3], all_[:] = -0.3, 0.1
    two[0, 0, 0], two[0, 4, 6] = 3, -1
    weight = torch.stack([one, -7 * all_, two, torch.zeros(1, 5, 7)])
    assert study.spread(weight).tolist() == pytest.approx([1, 35, 100 / 82, 0])
    weight = torch.zeros(2, 3, 4, 4)  # channels of a pixel count together
    weight[0, :, 1, 1] = torch.tensor([1.0, -2.0, 0.5])
    weight[1, 0, 1, 1] = weight[1, 2, 3, 3] = 1
    assert study.spread(weight).tolist() == pytest.approx([1, 2])


def test_which_weights_are_those_of_the_first_layer():
    model = linear((3, 4, 5))
    first = study.first_layer(model, (3, 4, 5))
    assert torch.equal(first, model.linear.weight.detach().view(4, 3, 4, 5))
    maxout = fa.models.create("maxout", shape=(1, 8, 8), units=6, pieces=2)
    assert torch.equal(study.first_layer(maxout, (1, 8, 8)).flatten(1), maxout.hidden[0].weight.detach())


@pytest.mark.slow
def test_l1_decay_localizes():
    """A known way to fewer pixels: the measure falls."""
    data, found = fa.data.load("digits", "train"), []
    for recipe in (fa.train.Standard(), fa.train.WeightDecayL1(3e-3)):
        model = fa.models.create("softmax", shape=data.shape)
        optimization = fa.train.Optimization(weight_decay=0.0)
        options = {"epochs": 5, "optimizer": "adam", "learning_rate": 1e-2, "optimization": optimization}
        fa.train.fit(model, data, recipe, **options)
        found.append(study.localization(model, data.shape))
    assert found[1]["median"] < 0.8 * found[0]["median"]
    assert found[0]["units"] == 10
    assert found[0]["pixels"] == 64


@pytest.mark.slow
def test_the_picture(tmp_path, monkeypatch):
    nets = {"standard": reader(), "adversarial": reader()}
    kept: list[Figure] = []
    monkeypatch.setattr(study, "save", lambda figure, path: kept.append(figure))
    study.draw(nets, (1, 8, 8), tmp_path / "weights.png", seed=0)
    assert {"standard", "adversarial"} <= {text.get_text() for text in kept[0].texts}
    one, other = (np.asarray(axes.images[0].get_array()) for axes in kept[0].axes)
    assert one.shape[:2] == (89, 89)
    assert np.array_equal(one, other)


def test_each_unit_is_shown_at_its_own_scale():
    weight = torch.randn(12, 1, 3, 4) * torch.logspace(-3, 3, 12).view(-1, 1, 1, 1)
    drawn = study.mosaic(weight)
    for place in range(14):
        row, column = divmod(place, study.ACROSS)
        part = drawn[0, 4 * row : 4 * row + 3, 5 * column : 5 * column + 4]
        wanted = weight[place, 0] / weight[place].abs().max() if place < 12 else torch.zeros(3, 4)
        torch.testing.assert_close(part, wanted)
