"""MART against a computation by hand: BCE, the weight of each sample's divergence, what moves."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.train import MART
from tests.train.recipes import hand
from tests.zoo.net import module

RECIPE = MART(fa.Linf(hand.RADIUS), hand.STEPS, hand.STEP_SIZE, beta=5.0)


def by_hand(model, x, y, ids):
    x_adv = hand.ascend(model, x, lambda z: cross_entropy(z, y, reduction="none"), hand.near(x, ids))
    return x_adv, model(x).softmax(1), model(x_adv).softmax(1)


def binary(q, y):
    others = q.masked_fill(torch.eye(3, dtype=torch.bool)[y], 0)
    return -hand.own(q, y).log() - (1 - others.amax(1)).log()


def test_value_gradient_and_statistics():
    x, y, ids = hand.batch()
    model = hand.warm_net()
    twin = copy.deepcopy(model)
    _, p, q = by_hand(twin, x, y, ids)
    apart = (p * (p.log() - q.log())).sum(1)
    wanted = (binary(q, y) + 5 * apart * (1 - hand.own(p, y))).mean()
    assert not torch.allclose(wanted, (binary(q, y) + 5 * apart * (1 - hand.own(q, y))).mean(), rtol=1e-3)
    assert not torch.allclose(wanted, (binary(q, y) + 5 * apart * hand.own(p, y)).mean(), rtol=1e-3)
    held = (binary(q, y) + 5 * apart * (1 - hand.own(p, y).detach())).mean()
    assert hand.differ(hand.gradients(wanted, twin), hand.gradients(held, twin))
    hand.assert_same_step(RECIPE, model, twin, wanted)


@pytest.mark.parametrize("lead", [5.0, 30.0, 300.0])
def test_a_confident_mistake_has_a_finite_loss_and_a_gradient(lead):
    """1 - p_k would round to 0; -log(1 - p_k) is the lead itself, but for two other classes."""
    logits, x = nn.Parameter(torch.tensor([0.0, lead, 0.0])), torch.rand(4, 1, 2, 2)
    model = module(lambda self, x: self.logits.expand(len(x), 3), logits=logits)
    loss = MART(fa.Linf(0.1), 1, beta=0.0).objective(model, x, torch.zeros(4, dtype=torch.int64), x)
    (gradient,) = torch.autograd.grad(loss, logits)
    own_loss = torch.tensor([lead, 0.0, 0.0]).logsumexp(0)
    other = own_loss - torch.tensor(2.0).log()
    torch.testing.assert_close(loss, own_loss + other)
    # of -log p_y: p - e_y; of -log(1 - p_k): p_k towards k, and from the two others half of that
    p = logits.detach().softmax(0)
    by_hand = torch.stack([p[0] - 1 - p[1] / 2, 2 * p[1], p[2] - p[1] / 2])
    torch.testing.assert_close(gradient, by_hand)


def test_smoothing_is_that_of_the_first_term():
    x, y, _ = hand.batch()
    losses = [
        MART(fa.Linf(hand.RADIUS), 1, beta=0.0, label_smoothing=s).objective(hand.warm_net(), x, y, x)
        for s in (0.0, 0.2)
    ]
    logits = hand.warm_net()(x)
    change = cross_entropy(logits, y, label_smoothing=0.2) - cross_entropy(logits, y)
    torch.testing.assert_close(losses[1] - losses[0], change)
