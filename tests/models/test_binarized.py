"""Binarized models: the values they see, the gradient that passes through, and attacks on them."""

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.models import ABS, Binarized, SchottCNN
from tests.refusals import refuses

DRAW = torch.Generator().manual_seed(1)


def net(inputs=64):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 4)).double()
    layers[1].weight.data.mul_(3)
    return layers


X = torch.rand(12, 1, 8, 8, generator=DRAW, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.5, 0.3, -2.5, 127.7])
def test_the_model_sees_zeros_and_ones_alone(threshold, dtype):
    edge = torch.tensor(threshold, dtype=dtype)
    near = torch.stack([edge, *(torch.nextafter(edge, edge.new_tensor(end)) for end in (-1e4, 1e4))])
    far = torch.linspace(-300, 300, 101).to(dtype)
    seen = Binarized(nn.Identity(), threshold)(torch.cat([near, far])[:, None]).squeeze(1)
    assert seen[:3].tolist() == [1, 0, 1]
    assert torch.equal(seen[3:], (far >= edge).to(dtype))


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_the_gradient_is_that_of_the_model_at_the_binarized_image(threshold):
    inner, y = net(), torch.arange(12) % 4
    value, logits, gradient = fa.freeze(Binarized(inner, threshold)).input_gradient(X, y)
    leaf = X.ge(threshold).double().requires_grad_()
    expected = nn.functional.cross_entropy(inner(leaf), y, reduction="none")
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])
    torch.testing.assert_close(logits, inner(X.ge(threshold).double()).detach())


def test_models_that_binarize_tell_their_threshold():
    decoder = [torch.zeros(2, 1, 1, 8, 8)], [torch.zeros(2, 1)], (1,)
    told = [
        (Binarized(net(), 0.25), 0.25),
        (Binarized(net()), 0.5),
        (SchottCNN(binary=True), 0.5),
        (SchottCNN(), None),
        (ABS(*decoder, binary=True, prior_samples=4), 0.5),
        (ABS(*decoder, prior_samples=4), None),
    ]
    for model, threshold in told:
        assert model.input_threshold == threshold


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), "half", None, True])
def test_bad_thresholds(threshold):
    refuses("threshold: expected a finite number", Binarized, net(), threshold)
