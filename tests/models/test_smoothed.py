"""Smoothed: the mean probabilities under fixed noises, as attacks meet them."""

from math import inf, nan

import pytest
import torch

import fastadv as fa
from fastadv import rng
from fastadv.errors import InputError
from fastadv.models import Smoothed

DIGITS = fa.data.load("digits", "test", limit=40)


def net() -> torch.nn.Module:
    model = fa.models.create("small_cnn", shape=DIGITS.shape, classes=10, width=4).eval()
    with torch.no_grad():
        model.linear.weight.mul_(10)
    return model


def test_its_cross_entropy_is_that_of_the_mean_probability() -> None:
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


def test_it_is_a_function_of_x_for_each_sample() -> None:
    smoothed, x = Smoothed(net(), 0.3), DIGITS.x
    torch.testing.assert_close(smoothed(x)[7:9], smoothed(x[7:9]))
    assert not torch.allclose(smoothed(x), Smoothed(net(), 0.3, seed=1)(x))
    assert smoothed(x[:0]).shape == (0, 10)


@pytest.mark.slow
def test_an_attack_lowers_the_mean_probability_under_other_noises_too() -> None:
    smoothed, other = Smoothed(net(), 0.3), Smoothed(net(), 0.3, noises=64, seed=1)
    y = other(DIGITS.x).argmax(1)
    out = fa.attacks.pgd(smoothed, DIGITS.x, y, fa.L2(0.5), steps=5, stop_early=False)
    own = torch.arange(40), y
    assert (other(out.x_adv)[own] < other(DIGITS.x)[own]).double().mean() > 0.9


@pytest.mark.parametrize("sigma", [0.0, -1.0, nan, inf, "wide"])
def test_a_sigma_that_is_no_deviation_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma: expected"):
        Smoothed(net(), sigma)


def test_no_noises_and_no_seed_are_refused() -> None:
    with pytest.raises(InputError, match="noises: expected an integer >= 1"):
        Smoothed(net(), 0.3, noises=0)
    with pytest.raises(InputError, match="seed: expected"):
        Smoothed(net(), 0.3, seed=-1)
