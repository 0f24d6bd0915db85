"""Gaussian training and Consistency against computations by hand, and what they teach."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastadv import rng
from fastadv.train import Consistency, GaussianTraining
from tests.train.recipes.hand import SEED, assert_same_step, batch, differ, gradients, warm_net
from tests.zoo.net import module

SIGMA = 0.4


def noise(x, ids, draw):
    return SIGMA * rng.normal(64, rng.derive(SEED, "smoothing"), ids, draw).double().view_as(x)


def test_gaussian_training_by_hand():
    x, y, ids = batch()
    hand, noisy = warm_net(), x + noise(x, ids, 0)
    assert noisy.min() < 0  # what a smoothed classifier sees is not clamped
    assert noisy.max() > 1
    assert_same_step(GaussianTraining(SIGMA), warm_net(), hand, cross_entropy(hand(noisy), y))


@pytest.mark.parametrize(("weight", "entropy", "noises"), [(10.0, 0.5, 2), (3.0, 0.0, 3), (0.0, 2.0, 3)])
def test_consistency_by_hand(weight, entropy, noises):
    x, y, ids = batch()
    hand = warm_net()
    each = hand(torch.cat([x + noise(x, ids, draw) for draw in range(noises)])).softmax(1).chunk(noises)
    mean = sum(each) / noises
    natural = -torch.cat([p[torch.arange(9), y] for p in each]).log().mean()
    apart = sum((mean * (mean.log() - p.log())).sum(1).mean() for p in each) / noises
    unsure = -(mean * mean.log()).sum(1).mean()
    wanted = natural + weight * apart + entropy * unsure
    held = natural + weight * sum((mean.detach() * -p.log()).sum(1).mean() for p in each) / noises
    assert differ(gradients(wanted, hand), gradients(held, hand))  # the mean moves, too
    assert_same_step(Consistency(SIGMA, weight, entropy, noises), warm_net(), hand, wanted)


@pytest.mark.parametrize("lead", [5.0, 300.0])
def test_consistency_of_a_sure_net_is_finite(lead):
    """Probabilities of 0 in float32, whose logarithm is infinite, add nothing."""
    logits, x = nn.Parameter(torch.tensor([0.0, lead, 0.0])), torch.rand(4, 1, 2, 2)
    model = module(lambda self, x: self.logits.expand(len(x), 3), logits=logits)
    loss = Consistency(SIGMA)(model, x, torch.zeros(4, dtype=torch.int64))
    p = logits.detach().double().softmax(0)
    torch.testing.assert_close(loss.double(), -p.log()[0] - 0.5 * (p * p.log()).nansum())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[0] < 0
