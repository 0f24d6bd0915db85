"""Distal adversarials: noise suffices against a classifier, not against a model that explains."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from fastadv.errors import InputError
from fastadv.models import Binarized
from papers.schott2018.distal import distal
from tests.models.abs.nets import tiny

TARGETS = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def linear():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    net[1].weight.data.normal_(0, 3, generator=torch.Generator().manual_seed(0))
    return net


@pytest.mark.slow
def test_an_explaining_model_wants_the_class():
    explained, targets = tiny(scale=100.0, floor=1e-3), torch.tensor([0, 1, 2])
    start = distal(explained, targets, (1, 8, 8), steps=0)
    assert not start.success.any()
    out = distal(explained, targets, (1, 8, 8), steps=300)
    assert out.success.all()
    chances = explained.confidence(out.x).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(out.confidence, chances, rtol=1e-5, atol=1e-6)
    own = explained.infer(out.x).reconstruction[torch.arange(3), targets]
    assert (own - out.x).square().mean() < (own - start.x).square().mean() / 5
    assert (out.steps > 0).all()


def test_noise_and_result_are_keyed_by_seed_and_id(linear):
    whole = distal(linear, TARGETS, (1, 4, 4), steps=5, step_size=0.1)
    part = distal(linear, TARGETS[2:], (1, 4, 4), steps=5, step_size=0.1, ids=torch.tensor([2, 3]))
    torch.testing.assert_close(part.x, whole.x[2:], rtol=0, atol=1e-6)
    assert not torch.equal(distal(linear, TARGETS, (1, 4, 4), steps=5, step_size=0.1, seed=1).x, whole.x)


def test_steps_by_hand(linear):
    """Momentum, box and step as the definition has them, on the softmax."""
    targets = torch.tensor([2])
    x = distal(linear, targets, (1, 4, 4), steps=0).x
    velocity = torch.zeros_like(x)
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        velocity = 0.5 * velocity + torch.autograd.grad(linear(leaf).log_softmax(1)[0, 2], leaf)[0]
        x = (x + 0.01 * velocity).clamp(0, 1)
    out = distal(linear, targets, (1, 4, 4), steps=3, step_size=0.01, momentum=0.5, confidence=1.0)
    torch.testing.assert_close(out.x, x)
    assert out.steps.tolist() == [3]


class Bright(nn.Module):
    """Class 1 where the mean is 0.6: steps that are too long lead past it, to and fro."""

    def forward(self, x):
        away = (x.flatten(1).mean(1) - 0.6).square()
        return torch.stack([torch.zeros_like(away), -50 * away], 1)


def test_where_the_goal_is_not_reached_the_most_confident_image_counts():
    options = {"step_size": 0.6, "momentum": 0.5}
    found = [
        distal(Bright(), torch.ones(4, dtype=torch.int64), (1, 4, 4), steps=steps, **options).confidence
        for steps in range(8)
    ]
    assert all((more >= few).all() for few, more in pairwise(found))
    assert (found[-1] > found[0]).all()


def test_a_model_that_binarizes_is_shown_what_it_sees():
    torch.manual_seed(0)
    model = Binarized(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), 0.7)
    out = distal(model, TARGETS, (1, 28, 28), step_size=0.5, confidence=0.9, box=(-1.0, 1.0))
    assert out.success.all()
    assert set(out.x.unique().tolist()) == {-1.0, 1.0}
    shares = model(out.x).softmax(1).gather(1, TARGETS[:, None]).squeeze(1)
    torch.testing.assert_close(out.confidence, shares, rtol=1e-6, atol=1e-6)


def test_the_boundary_cases(linear):
    assert distal(linear, TARGETS[:0], (1, 4, 4)).x.shape == (0, 1, 4, 4)
    sure = distal(linear, torch.tensor([1]), (1, 4, 4), confidence=1e-6)
    assert (sure.success.tolist(), sure.steps.tolist()) == ([True], [0])
    linear.floor = 1e12
    graded = distal(linear, torch.tensor([1]), (1, 4, 4), steps=50, step_size=0.1)
    assert not graded.success.any(), "a floor as high as that makes nothing certain"
    for wrong in ({"steps": -1}, {"step_size": 0.0}, {"momentum": 1.0}, {"confidence": 0.0}):
        with pytest.raises(InputError, match="momentum in"):
            distal(linear, TARGETS, (1, 4, 4), **wrong)
