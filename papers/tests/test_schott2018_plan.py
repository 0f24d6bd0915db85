"""What the study runs, with which arguments, and how long that takes."""

import inspect

import pytest
import torch

import fastadv as fa
from fastadv.data import batches
from fastadv.errors import InputError
from papers.schott2018.plan import METHODS, THRESHOLDS, TITLES, Cell, Settings, published
from papers.tests.schott import image_set, linear


@pytest.mark.parametrize(("name", "length"), [("BIM", 1.25), ("BIM of one radius", 1.0)])
def test_how_far_the_steps_of_bim_lead(name, length):
    model, (x, y, _) = linear(), next(batches(image_set(4), 4))
    threat = fa.L2(torch.tensor([0.01, 0.02, 0.4, 2.0]))
    (method,) = (method for method in METHODS if (method.name, method.norm) == (name, "l2"))
    out = Cell("cnn", method).attack(0, None).keywords["attack"](model, x, y, threat=threat)
    expected, other = (
        fa.attacks.bim(model, x, y, threat, steps=10, step_size=radii * threat.radius / 10, loss="ce")
        for radii in (length, 2.25 - length)
    )
    torch.testing.assert_close(out.x_adv, expected.x_adv)
    assert (out.x_adv != other.x_adv).any()


@pytest.mark.parametrize(
    ("options", "names"),
    [({"samples": 0}, "samples"), ({"models": ("vgg",)}, "models"), ({"norms": ("l7",)}, "norms"),
     ({"models": ()}, "models"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_settings_refuse(options, names):
    with pytest.raises(InputError, match=names):
        Settings(**options).cells()


def test_arguments_are_those_of_the_attacks_that_exist():
    for cell in Settings().cells():
        run = getattr(fa.attacks, cell.method.attack)
        inspect.signature(run).bind_partial("model", "x", "y", threat="threat", **cell.arguments)
        assert not cell.method.wrap or hasattr(fa.attacks, cell.method.wrap)


def test_every_model_has_a_curve_in_every_norm():
    assert set(published()) == {(norm, model) for norm in THRESHOLDS for model in TITLES}
    for (norm, _), curve in published().items():
        assert len(curve.distance) == len(curve.accuracy) >= 96
        assert list(curve.distance) == sorted(curve.distance)
        assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)
        assert curve.accuracy[0] >= 0.98
        points = list(zip(curve.distance, curve.accuracy, strict=True))
        below = min(share for d, share in points if d <= THRESHOLDS[norm])
        above = max((share for d, share in points if d > THRESHOLDS[norm]), default=0.0)
        assert above - 0.011 <= curve.at_threshold <= below + 0.011


@pytest.mark.parametrize(
    ("norm", "model", "median", "accuracy"),
    [
        ("l2", "abs", 2.24, 0.799),
        ("l2", "cnn", 1.09, 0.08),
        ("linf", "binary_abs", 0.440, 0.77),
        ("linf", "abs", 0.232, 0.08),
        ("linf", "madry", 0.341, 0.871),
        ("l0", "binary_abs", 21.3, 0.77),
        ("l0", "nearest_neighbor", 10.0, 0.34),
        ("l0", "madry", 4.0, 0.0),
    ],
)
def test_the_figures_that_everybody_quotes(norm, model, median, accuracy):
    found = published()[norm, model]
    assert found.median == pytest.approx(median, rel=5e-3)
    assert found.at_threshold == pytest.approx(accuracy, abs=5e-4)
