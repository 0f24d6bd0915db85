"""AttackBench's optimality against areas counted by hand and integrated numerically."""

import math

import pytest
import torch

from fastadv.evaluation import optimality
from tests.refusals import refuses

INF = math.inf


def test_by_hand():
    # best 0 1 2 4, so d_max 4, clean 3/4, A* = 7/4; the areas of a and b up to 4 are 8/4 and 10/4
    shares = optimality({"a": [0, 1, 2, 5], "b": [0, 2, 4, 4]})
    # a: best for all but the last sample, where it stops counting at 4
    assert shares["a"] == pytest.approx(1 - (7 / 4 - 7 / 4) / (3 - 7 / 4))
    assert shares["b"] == pytest.approx(1 - (10 / 4 - 7 / 4) / (3 - 7 / 4)) == pytest.approx(0.4)
    # NaN is wrong already
    assert optimality({"a": [math.nan, 1, 2, 5], "b": [math.nan, 2, 4, 4]}) == shares


def test_an_attack_that_breaks_nothing_has_none_and_the_best_has_all():
    best = torch.tensor([0.0, 0.1, 0.4, 0.9])
    shares = optimality({"none": torch.tensor([0.0, INF, INF, INF]), "best": best})
    assert shares == {"none": pytest.approx(0.0, abs=1e-6), "best": pytest.approx(1.0)}
    assert optimality({"best": best}) == {"best": pytest.approx(1.0)}


@pytest.mark.parametrize("row", [[0, 0], [INF, INF], [0, INF], [2.0, 2.0], [0.3]])
def test_nothing_to_tell_apart_is_nan(row):
    assert math.isnan(optimality({"a": row, "b": row})["b"])


@pytest.mark.parametrize(
    "wrong", [{}, {"a": []}, {"a": [1, 2], "b": [1]}, {"a": [-1.0, 2]}, {"a": [[1.0]]}, {"a": "far"}]
)
def test_wrong_distances_are_named(wrong):
    refuses("distances", optimality, wrong)
