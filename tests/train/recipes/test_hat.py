"""HAT by hand: what the helper calls x_adv is the label twice as far."""

import copy
from functools import partial

import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.train import HAT
from tests.train.recipes import hand
from tests.train.recipes.test_trades import by_hand

MAKE = partial(HAT, fa.Linf(hand.RADIUS), hand.STEPS, hand.STEP_SIZE, beta=2.0)


def test_value_gradient_and_statistics():
    x, y, ids = hand.batch()
    model, helper = hand.warm_net(), hand.warm_net(3)
    twin, before = copy.deepcopy(model), copy.deepcopy(helper.state_dict())
    x_adv, p, q = by_hand(twin, x, y, ids)
    called = hand.evaluated(helper)(x_adv).argmax(1)
    assert (called != hand.evaluated(helper)(x).argmax(1)).any()
    wanted = -hand.own(p, y).log().mean() + 2 * (p * (p.log() - q.log())).sum() / len(x)
    wanted = wanted + 0.7 * cross_entropy(twin(x + 3 * (x_adv - x)), called)
    hand.assert_same_step(MAKE(helper=helper, gamma=0.7, far=3.0), model, twin, wanted)
    torch.testing.assert_close(helper.state_dict(), before, rtol=0, atol=0)
    assert helper.training
    assert all(weight.grad is None for weight in helper.parameters())


def test_a_frozen_helper_answers_the_same():
    x, y, ids = hand.batch()
    helper = hand.warm_net(1)
    losses = [
        MAKE(helper=each)(hand.warm_net(), x, y, ids=ids, seed=3) for each in (helper, fa.freeze(helper))
    ]
    torch.testing.assert_close(*losses)
