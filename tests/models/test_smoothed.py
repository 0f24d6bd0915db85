"""Smoothed: the mean probabilities under fixed noises, as attacks meet them."""

from math import inf, nan

import pytest
import torch

import fastadv as fa
from fastadv import rng
from fastadv.models import Smoothed
from tests.refusals import refuses

DIGITS = fa.data.load("digits", "test", limit=40)


def net():
    model = fa.models.create("small_cnn", shape=DIGITS.shape, classes=10, width=4).eval()
    with torch.no_grad():
        model.linear.weight.mul_(10)
    return model


def test_its_cross_entropy_is_that_of_the_mean_probability():
    model, x = net().double(), DIGITS.x.double()
    noises = rng.normal(64, rng.derive(3, "smoothed"), torch.arange(5)).double().view(5, 1, 8, 8)
    mean = sum(model(x + 0.3 * noise).softmax(1) for noise in noises) / 5
    smoothed = Smoothed(model, 0.3, noises=5, seed=3)
    torch.testing.assert_close(smoothed(x), mean.log())
    loss, _, gradient = fa.freeze(smoothed).input_gradient(x, DIGITS.y)
    torch.testing.assert_close(loss, -mean[torch.arange(40), DIGITS.y].log())
    leaf = x.clone().requires_grad_()
    mean = sum(model(leaf + 0.3 * noise).softmax(1) for noise in noises) / 5
    wanted = torch.autograd.grad(-mean[torch.arange(40), DIGITS.y].log().sum(), leaf)[0]
    torch.testing.assert_close(gradient, wanted)


def test_it_is_a_function_of_x_for_each_sample():
    smoothed, x = Smoothed(net(), 0.3), DIGITS.x
    torch.testing.assert_close(smoothed(x)[7:9], smoothed(x[7:9]))
    assert not torch.allclose(smoothed(x), Smoothed(net(), 0.3, seed=1)(x))
    assert smoothed(x[:0]).shape == (0, 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("sigma", each) for each in (0.0, -1.0, nan, inf, "wide")), ("noises", 0), ("seed", -1)],
)
def test_what_is_no_smoothing_is_refused(name, value):
    refuses(f"{name}: expected", Smoothed, net(), **{"sigma": 0.3, name: value})
