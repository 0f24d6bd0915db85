"""Edges of certificates: where a mistake of one, or in the last digits, would go unseen."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.certify import predict, smooth
from fastadv.certify.noise import Noise
from fastadv.certify.sequential import lower_bound
from fastadv.certify.smooth import Smoothed
from fastadv.errors import InputError
from tests.certify.nets import SIGMA, halfspace, images


class Shares(nn.Module):
    """Votes for ten classes of known shares, by the first pixel of a copy."""

    def __init__(self, *edges: float) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor(edges))

    def forward(self, x: Tensor) -> Tensor:
        place = torch.bucketize(x.flatten(1)[:, :1].float(), self.edges).squeeze(1)
        return nn.functional.one_hot(place, 10).float()


def test_predict_tests_the_two_first_classes_against_each_other():
    # about 30, 45 and 25% of the votes: of all draws no class has the half
    model, x = Shares(-0.26, 0.34), torch.zeros(2, 1, 2, 2)
    assert predict(model, x, 0.5, n=1000).tolist() == [1, 1]
    assert smooth(model, (x, torch.ones(2).long()), 0.5, n=1000).abstained.all()


def test_predict_takes_what_it_can_and_refuses_the_rest():
    model, x = halfspace(), images(6)[0]
    given = predict(model, x, SIGMA, ids=torch.arange(6))
    for ids in (list(range(6)), np.arange(6)):
        assert torch.equal(predict(model, x, SIGMA, ids=ids), given)
    for wrong, told in (
        ({"ids": [0, 1]}, "ids: expected int64"), ({"sound": 1}, "sound: expected True or False"),
        ({"x": x.numpy()}, "x: expected a floating"), ({"x": (255 * x).byte()}, "x: expected a floating"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            predict(model, **{"x": x, "sigma": SIGMA, **wrong})


def test_logarithms_are_exact_enough():
    """The bound of k hits in n is where the test martingale, by math.lgamma, reaches 1 / alpha."""
    hits, n, alpha = 99_990, 100_000, 1e-3

    def ratio(p):
        beta = math.lgamma(hits + 0.5) + math.lgamma(n - hits + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
        return beta - hits * math.log(p) - (n - hits) * math.log1p(-p)

    found = lower_bound(hits, n, alpha)
    assert ratio(found) == pytest.approx(math.log(1 / alpha), abs=1e-4)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_out_of_range_are_refused(label):
    x, y = images(4)
    y[2] = label
    with pytest.raises(InputError, match="labels from 0 to 1"):
        smooth(halfspace(), (x, y), SIGMA, n=20)


def test_the_grid_ends_where_it_does():
    noise = Noise(0.5)
    with pytest.raises(InputError, match="grid"):
        noise.levels(torch.full((1, 4), 1.001 / 255))
    for wrong in (math.nan, math.inf, 1e9):
        with pytest.raises(InputError, match="grid"):
            noise.levels(torch.tensor([[0.0, wrong]]), sound=False)
    fine = Noise(1e-4)
    with pytest.raises(InputError, match="grid"):
        fine.levels(torch.full((1, 1), 3000.0), sound=False)  # more steps than int32 counts
    assert int(fine.levels(torch.ones(1, 1), sound=False)) == 255 * fine.steps
    assert noise.ladder[-1] == 4 * noise.sigma


def test_an_audit_draws_what_was_certified(monkeypatch):
    seen, passes = [], Smoothed.passes

    def noted(self, levels, ids, drawn, wanted):
        seen.append(list(zip(ids.tolist(), drawn.tolist(), strict=True)))
        return passes(self, levels, ids, drawn, wanted)

    monkeypatch.setattr(Smoothed, "passes", noted)
    found = smooth(halfspace(), images(4), SIGMA, n=200, n0=30, sequential=False)
    assert seen[-1] == [(image, 30) for image in range(4)]
    seen.clear()
    assert all(each.stands for each in fa.certify.audit(found, [0, 3]))
    assert {(0, 30), (3, 30)} <= {each for several in seen for each in several}
