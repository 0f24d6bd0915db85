"""SmoothAdv against a computation by hand: what the attack ascends, its noises, and its epochs."""

import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.train import AWP, SmoothAdv
from tests.train.recipes import hand
from tests.train.test_recipes import flat_net

SIGMA, NOISES, STEPS, RADIUS = 0.4, 3, 4, 0.6
BOX = (-9.0, 9.0)  # which no point reaches, so that projections are by hand
RECIPE = SmoothAdv(fa.L2(RADIUS, BOX), SIGMA, NOISES, STEPS)


def drawn(x, ids, noises=NOISES):
    key = rng.derive(hand.SEED, "smoothing")
    return [SIGMA * rng.normal(64, key, ids, draw).to(x).view_as(x) for draw in range(noises)]


def not_sure(model, x, y, noises):
    return -hand.own(sum(model(x + noise).softmax(1) for noise in noises) / len(noises), y).log()


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
    made = fa.train.craft(RECIPE, model, x, y, ids=ids, seed=hand.SEED)
    torch.testing.assert_close(made, x_adv, rtol=0, atol=1e-9)
    assert (x_adv - ascended(model, x, y, noises, mean_loss)).abs().max() > 1e-3
    wanted = cross_entropy(by_hand(torch.cat([made + noise for noise in noises])), y.repeat(NOISES))
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
    made = recipe.craft(model, x, y, ids=ids, seed=0)
    wanted = recipe.craft(model.double(), x.double(), y, ids=ids, seed=0)
    torch.testing.assert_close(made.double(), wanted, rtol=0, atol=1e-4)
