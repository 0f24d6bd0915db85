"""What the study runs, with which arguments, and how long that takes."""

import pytest
import torch

import fastadv as fa
from fastadv.data import batches
from papers.schott2018.plan import METHODS, Cell, published
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
    ("norm", "model", "median", "accuracy"),
    [
        ("l2", "abs", 2.24, 0.799),
        ("l2", "cnn", 1.09, 0.08),
        ("linf", "binary_abs", 0.440, 0.77),
        ("l0", "binary_abs", 21.3, 0.77),
        ("l0", "madry", 4.0, 0.0),
    ],
)
def test_the_figures_that_everybody_quotes(norm, model, median, accuracy):
    found = published()[norm, model]
    assert found.median == pytest.approx(median, rel=5e-3)
    assert found.at_threshold == pytest.approx(accuracy, abs=5e-4)
