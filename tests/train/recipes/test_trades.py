"""TRADES, MART and SCORE by hand: which divergence, what it is weighed by, what is held fixed, modes."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import fastadv as fa
from fastadv.train import MART, SCORE, TRADES
from tests.refusals import refuses
from tests.train.recipes import hand
from tests.zoo.net import module

GIVEN = fa.Linf(hand.RADIUS), hand.STEPS, hand.STEP_SIZE
RECIPE = TRADES(*GIVEN, beta=6.0)


def divergence(p, q):
    return (p * (p.log() - q.log())).sum(1)


def square(p, q):
    return ((p - q) ** 2).sum(1)


def away(model, x, ids, apart=divergence, start=None):
    """x_adv, where `apart` of the answers is largest, and the answers there and at x."""
    fixed = hand.evaluated(model)(x).softmax(1).detach()
    begin = hand.near(x, ids) if start is None else start
    x_adv = hand.ascend(model, x, lambda z: apart(fixed, z.softmax(1)), begin)
    return x_adv, model(x).softmax(1), model(x_adv).softmax(1)


def test_trades():
    x, y, ids = hand.batch()
    model, twin = hand.warm_net(), hand.warm_net()
    _, p, q = away(twin, x, ids)
    natural = -hand.at_label(p, y).log().mean()
    wanted = natural + 6 * divergence(p, q).mean()
    # Mistakes that it must differ from: the other direction, a clean branch held fixed
    assert not torch.allclose(wanted, natural + 6 * divergence(q, p).mean(), rtol=1e-3)
    held = natural + 6 * divergence(p.detach(), q).mean()
    assert hand.differ(hand.gradients(wanted, twin), hand.gradients(held, twin))
    hand.assert_same_step(RECIPE, model, twin, wanted)


def test_beta_weighs_the_divergence_and_smoothing_the_labels():
    x, y, ids = hand.batch()

    def loss(**options):
        return dataclasses.replace(RECIPE, **options)(hand.warm_net(), x, y, ids=ids, seed=hand.SEED)

    torch.testing.assert_close(loss(beta=4.0) - loss(beta=0.0), 2 * (loss(beta=2.0) - loss(beta=0.0)))
    p = hand.warm_net()(x).softmax(1)
    smooth = -(0.8 * hand.at_label(p, y).log() + 0.2 * p.log().mean(1)).mean()
    torch.testing.assert_close(loss(beta=0.0, label_smoothing=0.2), smooth)


def binary(q, y):
    others = q.masked_fill(torch.eye(3, dtype=torch.bool)[y], 0)
    first = -(0.8 * hand.at_label(q, y).log() + 0.2 * q.log().mean(1))  # smoothed
    return first - (1 - others.amax(1)).log()


def test_mart():
    x, y, ids = hand.batch()
    model, twin = hand.warm_net(), hand.warm_net()
    x_adv = hand.ascend(twin, x, lambda z: cross_entropy(z, y, reduction="none"), hand.near(x, ids))
    p, q = twin(x).softmax(1), twin(x_adv).softmax(1)
    apart = divergence(p, q)
    wanted = (binary(q, y) + 5 * apart * (1 - hand.at_label(p, y))).mean()
    for weight in (1 - hand.at_label(q, y), hand.at_label(p, y)):  # mistakes that it must differ from
        assert not torch.allclose(wanted, (binary(q, y) + 5 * apart * weight).mean(), rtol=1e-3)
    held = (binary(q, y) + 5 * apart * (1 - hand.at_label(p, y).detach())).mean()
    assert hand.differ(hand.gradients(wanted, twin), hand.gradients(held, twin))
    hand.assert_same_step(MART(*GIVEN, beta=5.0, label_smoothing=0.2), model, twin, wanted)


@pytest.mark.parametrize("lead", [5.0, 30.0, 300.0])
def test_a_confident_mistake_has_a_finite_loss_and_a_gradient(lead):
    """1 - p_k would round to 0; -log(1 - p_k) is the lead itself, but for two other classes."""
    logits, x = nn.Parameter(torch.tensor([0.0, lead, 0.0])), torch.rand(4, 1, 2, 2)
    model = module(lambda self, x: self.logits.expand(len(x), 3), logits=logits)
    loss = MART(fa.Linf(0.1), 1, beta=0.0).objective(model, x, torch.zeros(4, dtype=torch.int64), x)
    (gradient,) = torch.autograd.grad(loss, logits)
    own_loss = torch.tensor([lead, 0.0, 0.0]).logsumexp(0)
    torch.testing.assert_close(loss, 2 * own_loss - torch.tensor(2.0).log())
    # Gradient of -log p_y: p - e_y; of -log(1 - p_k): p_k towards k, from the two others half of that
    p = logits.detach().softmax(0)
    torch.testing.assert_close(gradient, torch.stack([p[0] - 1 - p[1] / 2, 2 * p[1], p[2] - p[1] / 2]))


@pytest.mark.parametrize("start", ["uniform", "near"])
def test_score(start):
    x, y, ids = hand.batch()
    model, twin = hand.warm_net(), hand.warm_net()
    recipe = SCORE(*GIVEN, beta=3.0, label_smoothing=0.3, start=start)
    begin = recipe.threat.random_start(x, seed=hand.SEED, ids=ids) if start == "uniform" else None
    x_adv, p, _ = away(hand.warm_net(), x, ids, square, begin)
    crafted = recipe.craft(model, x, y, ids=ids, seed=hand.SEED)
    torch.testing.assert_close(crafted, x_adv, rtol=0, atol=1e-6)  # the start is drawn in float32
    p, q = twin(x).softmax(1), twin(crafted).softmax(1)
    wanted = (square(p, 0.7 * one_hot(y, 3).double() + 0.1) + 3 * square(q, p)).mean()
    hand.assert_same_step(recipe, model, twin, wanted)


@pytest.mark.parametrize("kind", [TRADES, MART])
def test_a_start_anywhere_in_the_ball(kind):
    x, y, ids = hand.batch()
    recipe = kind(fa.Linf(hand.RADIUS), 1, 1e-6, start="uniform")
    x_adv = recipe.craft(hand.warm_net(), x, y, ids=ids, seed=hand.SEED)
    start = recipe.threat.random_start(x, seed=hand.SEED, ids=ids)
    torch.testing.assert_close(x_adv, start, rtol=0, atol=2e-6)
    refuses("radius: expected a finite one for a start", kind, fa.Linf(float("inf")), 1, 0.1, start="uniform")
