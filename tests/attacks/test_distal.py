"""Distal adversarials: noise suffices against a classifier, not against a model that explains."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from fastadv.attacks.distal import distal
from fastadv.engine import freeze
from fastadv.errors import InputError
from fastadv.models import Binarized

from . import nets


@pytest.fixture
def linear():
    net = nets.linear()
    net[1].weight.data.mul_(20)
    return net


@pytest.fixture(scope="module")
def explained():
    return nets.explained(scale=100.0, floor=1e-3)[0]


def test_a_classifier_is_sure_of_noise(linear):
    targets = torch.tensor([0, 1, 2, 1])
    out = distal(linear, targets, (1, 4, 4), step_size=0.1, confidence=0.8)
    assert out.success.all()
    torch.testing.assert_close(
        out.confidence, linear(out.x).softmax(1).gather(1, targets[:, None]).squeeze(1).detach()
    )
    assert (out.confidence >= 0.8).all()
    assert out.x.amin() >= 0
    assert out.x.amax() <= 1


def test_an_explaining_model_wants_the_class(explained):
    targets = torch.tensor([0, 1, 2])
    start = distal(explained, targets, (1, 8, 8), steps=0)
    assert not start.success.any()
    out = distal(explained, targets, (1, 8, 8), steps=300)
    assert out.success.all()
    assert (explained.confidence(out.x).gather(1, targets[:, None]) >= 0.9).all()
    own = explained.infer(out.x).reconstruction[torch.arange(3), targets]
    assert (own - out.x).square().mean() < (own - start.x).square().mean() / 5
    assert (out.steps > 0).all()


def test_noise_and_result_are_keyed_by_seed_and_id(linear):
    targets = torch.tensor([0, 1, 2, 1])
    whole = distal(linear, targets, (1, 4, 4), steps=5, step_size=0.1)
    part = distal(linear, targets[2:], (1, 4, 4), steps=5, step_size=0.1, ids=torch.tensor([2, 3]))
    torch.testing.assert_close(part.x, whole.x[2:], rtol=0, atol=1e-6)
    assert not torch.equal(distal(linear, targets, (1, 4, 4), steps=5, step_size=0.1, seed=1).x, whole.x)


def test_steps_by_hand(linear):
    """Momentum, box and step as the definition has them, on the softmax."""
    targets = torch.tensor([2])
    x = distal(linear, targets, (1, 4, 4), steps=0).x
    velocity = torch.zeros_like(x)
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        loss = linear(leaf).log_softmax(1)[0, 2]
        velocity = 0.5 * velocity + torch.autograd.grad(loss, leaf)[0]
        x = (x + 0.01 * velocity).clamp(0, 1)
    out = distal(linear, targets, (1, 4, 4), steps=3, step_size=0.01, momentum=0.5, confidence=1.0)
    torch.testing.assert_close(out.x, x)
    assert out.steps.tolist() == [3]


def test_the_confidence_is_that_of_the_model_as_given(explained):
    targets = torch.tensor([0, 1])
    out = distal(freeze(explained, "bf16"), targets, (1, 8, 8), steps=5)
    expected = explained.confidence(out.x).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(out.confidence, expected, rtol=1e-6, atol=1e-7)


class Eager(nn.Module):
    """Class 1 where the image is bright; in bfloat16 a little less brightness seems enough."""

    def __init__(self, level):
        super().__init__()
        self.level, self.unused = level, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        bright = 10 * (x.flatten(1).mean(1) - self.level) + 0.01 * (x.dtype == torch.bfloat16)
        return torch.stack([-bright, bright], 1)


@pytest.mark.slow
def test_a_success_of_the_search_alone_is_searched_again():
    model, targets = Eager(0.52), torch.ones(6, dtype=torch.int64)
    options = {"steps": 120, "step_size": 0.02, "momentum": 0.0, "confidence": 0.5}
    out = distal(freeze(model, "bf16"), targets, (1, 28, 28), **options)
    assert out.success.all()
    assert (out.confidence >= 0.5).all()
    torch.testing.assert_close(out.confidence, model(out.x).softmax(1)[:, 1].detach())


@pytest.mark.slow
def test_where_the_goal_is_not_reached_the_most_confident_image_counts():
    """Steps that are too long lead past the brightness of the class, to and fro."""

    def bright(x):
        away = (x.flatten(1).mean(1) - 0.6).square()
        return torch.stack([torch.zeros_like(away), -50 * away], 1)

    targets = torch.ones(4, dtype=torch.int64)
    confidences = [
        distal(bright, targets, (1, 4, 4), steps=steps, step_size=0.6, momentum=0.5).confidence
        for steps in range(12)
    ]
    assert all((more >= few).all() for few, more in pairwise(confidences))
    assert (confidences[-1] > confidences[0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_binarizes_is_shown_what_it_sees(dtype):
    """The threshold of 0.7 is a little lower in bfloat16."""
    torch.manual_seed(0)
    model = Binarized(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).to(dtype), 0.7)
    targets = torch.tensor([0, 1, 2, 1])
    out = distal(model, targets, (1, 28, 28), step_size=0.5, confidence=0.9, box=(-1.0, 1.0))
    assert out.success.all()
    assert (out.steps > 0).all()
    assert set(out.x.unique().tolist()) == {-1.0, 1.0}
    shares = model(out.x.to(dtype)).softmax(1).gather(1, targets[:, None]).squeeze(1).float()
    torch.testing.assert_close(
        out.confidence, shares, rtol=0.02 if dtype == torch.bfloat16 else 1e-6, atol=1e-6
    )
    start = distal(model, targets, (1, 28, 28), steps=0, box=(-1.0, 1.0))
    assert 0.05 < (out.x != start.x).float().mean() < 0.5


def test_a_gradient_that_is_not_finite_stops_its_sample_alone(linear):
    class Trap(nn.Module):
        """The logits of `linear`, with a gradient of NaN where the first pixel is above the limit."""

        def forward(self, x):
            bad = (x.flatten(1)[:, :1] > limit).to(x.dtype)
            nothing = 0 * x.flatten(1).sum(1, keepdim=True)
            return linear(x) + torch.where(bad > 0, nothing, 1.0).sqrt() + bad - 1

    targets = torch.tensor([0, 1, 2, 1])
    options = {"steps": 4, "step_size": 0.01, "confidence": 1.0}
    noise = distal(linear, targets, (1, 4, 4), steps=0).x
    limit = noise[:, 0, 0, 0].sort().values[2:].mean()  # one sample starts above
    bad = noise[:, 0, 0, 0] > limit
    out, plain = (distal(model, targets, (1, 4, 4), **options) for model in (Trap(), linear))
    assert out.steps[bad].tolist() == [0]
    assert torch.equal(out.x[bad], noise[bad])
    kept = out.steps == 4  # those that never go above
    assert kept.any()
    torch.testing.assert_close(out.x[kept], plain.x[kept])


@pytest.mark.slow
def test_the_boundary_cases(linear):
    out = distal(linear, torch.tensor([0, 1]), (1, 4, 4), steps=9, step_size=50.0, box=(-1.0, 3.0))
    assert (out.x.amin(), out.x.amax()) == (-1.0, 3.0)
    out = distal(linear, torch.zeros(0, dtype=torch.int64), (1, 4, 4))
    assert out.x.shape == (0, 1, 4, 4)
    sure = distal(linear, torch.tensor([1]), (1, 4, 4), confidence=1e-6)
    assert sure.success.all()
    assert sure.steps.tolist() == [0]
    even = distal(lambda x: 0 * x.flatten(1)[:, :2], torch.tensor([1]), (1, 4, 4), confidence=0.5)
    assert even.success.all()
    assert even.steps.tolist() == [0]
    linear.floor = 1e12
    graded = distal(linear, torch.tensor([1]), (1, 4, 4), steps=50, step_size=0.1)
    assert not graded.success.any(), "a floor as high as that makes nothing certain"


BAD = {
    "steps": (-1, 1.5), "step_size": (-1.0, 0.0, None, "long"), "momentum": (1.0, -0.1, None),
    "confidence": (0.0, 1.1), "seed": (-1, 2**63, 1.0),
    "ids": ([0, 1], torch.arange(3)), "box": ((1.0, 0.0), (0.0, float("inf"))),
}  # fmt: skip


def test_bad_input(linear):
    targets = torch.tensor([0, 1])
    for name, values in BAD.items():
        for value in values:
            with pytest.raises(InputError, match=name):
                distal(linear, targets, (1, 4, 4), **{name: value})
    for wrong in (torch.tensor([0, 3]), torch.tensor([0.0]), [0, 1]):
        with pytest.raises(InputError, match="targets"):
            distal(linear, wrong, (1, 4, 4))
    for shape in ((), 16, (1, -4, 4), (1.0, 4)):
        with pytest.raises(InputError, match="shape"):
            distal(linear, targets, shape)
