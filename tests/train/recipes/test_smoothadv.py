"""SmoothAdv, Gaussian training and Consistency by hand: what is ascended, noises, what is averaged."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.train import AWP, Consistency, GaussianTraining, SmoothAdv
from tests.train.recipes import hand
from tests.train.recipes.hand import assert_same_step, batch, differ, gradients, warm_net
from tests.train.test_recipes import flat_net
from tests.zoo.net import module

SIGMA, NOISES, STEPS, RADIUS = 0.4, 3, 4, 0.6
BOX = (-9.0, 9.0)  # which no point reaches, so that projections are by hand
RECIPE = SmoothAdv(fa.L2(RADIUS, BOX), SIGMA, NOISES, STEPS)


def drawn(x, ids, noises=NOISES):
    key = rng.derive(hand.SEED, "smoothing")
    return [SIGMA * rng.normal(64, key, ids, draw).to(x).view_as(x) for draw in range(noises)]


def not_sure(model, x, y, noises):
    return -hand.at_label(sum(model(x + noise).softmax(1) for noise in noises) / len(noises), y).log()


def mean_loss(model, x, y, noises):
    return sum(cross_entropy(model(x + noise), y, reduction="none") for noise in noises) / len(noises)


def ascended(model, x, y, noises, loss):
    model, x_adv = hand.evaluated(model), x.clone()
    for _ in range(STEPS):
        leaf = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model, leaf, y, noises).sum(), leaf)
        away = x_adv + 2 * RADIUS / STEPS * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - x
        x_adv = x + away / (away.flatten(1).norm(dim=1) / RADIUS).clamp(min=1).view(-1, 1, 1, 1)
    return x_adv


def test_examples_and_loss_by_hand():
    x, y, ids = hand.batch()
    model, by_hand, noises = hand.warm_net(), hand.warm_net(), drawn(x, ids)
    x_adv = ascended(model, x, y, noises, not_sure)
    crafted = fa.train.craft(RECIPE, model, x, y, ids=ids, seed=hand.SEED)
    torch.testing.assert_close(crafted, x_adv, rtol=0, atol=1e-9)
    assert (x_adv - ascended(model, x, y, noises, mean_loss)).abs().max() > 1e-3
    wanted = cross_entropy(by_hand(torch.cat([crafted + noise for noise in noises])), y.repeat(NOISES))
    hand.assert_same_step(RECIPE, model, by_hand, wanted)


def test_weights_that_are_perturbed_meet_the_same_noise():
    x, y, ids = hand.batch()
    model = hand.warm_net()
    wanted = RECIPE(hand.warm_net(), x, y, ids=ids, seed=hand.SEED)
    torch.testing.assert_close(AWP(RECIPE, 1e-9).step(hand.step_at(model)), wanted.detach())


def test_an_image_of_which_the_net_is_sure_moves_where_it_should():
    model, (x, y, ids) = flat_net(), hand.batch()
    y, x, recipe = torch.zeros_like(y), x.float(), SmoothAdv(fa.L2(0.5), SIGMA)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([25.0, 0.0, 0.0]))
    assert (not_sure(model, x, y, drawn(x, ids)) <= 1e-7).all()
    crafted = recipe.craft(model, x, y, ids=ids, seed=0)
    wanted = recipe.craft(model.double(), x.double(), y, ids=ids, seed=0)
    torch.testing.assert_close(crafted.double(), wanted, rtol=0, atol=1e-4)


def test_gaussian_training_by_hand():
    x, y, ids = batch()
    hand, noisy = warm_net(), x + drawn(x, ids, 1)[0]
    assert noisy.min() < 0  # what a smoothed classifier sees is not clamped
    assert noisy.max() > 1
    assert_same_step(GaussianTraining(SIGMA), warm_net(), hand, cross_entropy(hand(noisy), y))


@pytest.mark.parametrize(("weight", "entropy", "noises"), [(10.0, 0.5, 2), (3.0, 0.0, 3), (0.0, 2.0, 3)])
def test_consistency_by_hand(weight, entropy, noises):
    x, y, ids = batch()
    hand = warm_net()
    chances = hand(torch.cat([x + noise for noise in drawn(x, ids, noises)])).softmax(1).chunk(noises)
    mean = sum(chances) / noises
    natural = -torch.cat([p[torch.arange(9), y] for p in chances]).log().mean()
    apart = sum((mean * (mean.log() - p.log())).sum(1).mean() for p in chances) / noises
    unsure = -(mean * mean.log()).sum(1).mean()
    wanted = natural + weight * apart + entropy * unsure
    held = natural + weight * sum((mean.detach() * -p.log()).sum(1).mean() for p in chances) / noises
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
