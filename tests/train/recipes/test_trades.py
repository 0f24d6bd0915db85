"""TRADES against a computation by hand: direction and reduction of KL, what is held fixed, modes."""

import copy
import dataclasses

import pytest
import torch

import fastadv as fa
from fastadv.engine import parts
from fastadv.errors import InputError
from fastadv.train import MART, TRADES
from fastadv.train.recipes import _common
from tests.train.recipes import hand

RECIPE = TRADES(fa.Linf(hand.RADIUS), hand.STEPS, hand.STEP_SIZE, beta=6.0)


def by_hand(model, x, y, ids):
    """x_adv, p(x) and p(x_adv)."""
    with torch.no_grad():
        fixed = hand.evaluated(model)(x).softmax(1)

    def apart(logits):
        return (fixed * (fixed.log() - logits.log_softmax(1))).sum(1)

    x_adv = hand.ascend(model, x, apart, hand.near(x, ids))
    return x_adv, model(x).softmax(1), model(x_adv).softmax(1)


def test_value_gradient_and_statistics():
    x, y, ids = hand.batch()
    model = hand.warm_net()
    twin = copy.deepcopy(model)
    _, p, q = by_hand(twin, x, y, ids)
    natural = -hand.own(p, y).log().mean()
    wanted = natural + 6 * (p * (p.log() - q.log())).sum() / len(x)
    # what must not be taken for it: the other direction, the mean over classes, a clean branch held fixed
    other_way = natural + 6 * (q * (q.log() - p.log())).sum() / len(x)
    assert not torch.allclose(wanted, other_way, rtol=1e-3)
    assert not torch.allclose(wanted, natural + 6 * (p * (p.log() - q.log())).mean(), rtol=1e-3)
    held = natural + 6 * (p.detach() * (p.detach().log() - q.log())).sum() / len(x)
    assert hand.differ(hand.gradients(wanted, twin), hand.gradients(held, twin))
    hand.assert_same_step(RECIPE, model, twin, wanted)
    assert model[1].num_batches_tracked == hand.warm_net()[1].num_batches_tracked + 2


def test_a_batch_that_passes_in_parts(monkeypatch):
    """The divergence from the clean answers holds one answer for each sample."""
    x, y, ids = hand.batch(40)
    model = hand.warm_net()
    whole = RECIPE.craft(model, x, y, ids=ids, seed=hand.SEED)
    monkeypatch.setattr(parts, "BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.testing.assert_close(RECIPE.craft(model, x, y, ids=ids, seed=hand.SEED), whole)


def test_beta_weighs_the_divergence_and_smoothing_the_labels():
    x, y, ids = hand.batch()

    def loss(**options):
        recipe = dataclasses.replace(RECIPE, **options)
        return recipe(hand.warm_net(), x, y, ids=ids, seed=hand.SEED)

    torch.testing.assert_close(loss(beta=4.0) - loss(beta=0.0), 2 * (loss(beta=2.0) - loss(beta=0.0)))
    p = hand.warm_net()(x).softmax(1)
    smooth = -(0.8 * hand.own(p, y).log() + 0.2 * p.log().mean(1)).mean()
    torch.testing.assert_close(loss(beta=0.0, label_smoothing=0.2), smooth)


@pytest.mark.parametrize("threat", [fa.L0(9), fa.L1(2.0), fa.L2(0.4)], ids=["l0", "l1", "l2"])
def test_every_norm_raises_the_divergence_inside_the_threat(threat):
    x, y, ids = hand.batch()
    model = hand.warm_net()
    x_adv = TRADES(threat, 7).craft(model, x, y, ids=ids, seed=hand.SEED)
    assert threat.contains(x_adv, x).all()
    frozen = hand.evaluated(model)
    start = _common.near_start(threat, x, ids, hand.SEED)
    apart = [_common.divergence(frozen(x), frozen(z)) for z in (start, x_adv)]
    assert (apart[1] > 5 * apart[0]).all()


@pytest.mark.parametrize("kind", [TRADES, MART])
def test_a_start_anywhere_in_the_ball(kind):
    x, y, ids = hand.batch()
    recipe = kind(fa.Linf(hand.RADIUS), 1, 1e-6, start="uniform")
    x_adv = recipe.craft(hand.warm_net(), x, y, ids=ids, seed=hand.SEED)
    start = recipe.threat.random_start(x, seed=hand.SEED, ids=ids)
    torch.testing.assert_close(x_adv, start, rtol=0, atol=2e-6)
    with pytest.raises(InputError, match="radius: expected a finite one for a start"):
        kind(fa.Linf(float("inf")), 1, 0.1, start="uniform")
