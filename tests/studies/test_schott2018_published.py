"""The published figures are quoted as their source gives them."""

import pytest

from fastadv.studies.schott2018.plan import THRESHOLDS, TITLES, published


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
