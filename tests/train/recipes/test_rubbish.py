"""Denying noise: the loss by hand, fresh noise, and what it teaches."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.train import PGDTraining, RubbishTraining, Standard
from papers.goodfellow2014.models import Maxout, Sigmoids
from tests.train.recipes.hand import SEED, assert_same_step, batch, warm_net

THREAT = fa.Linf(0.1)
DRY = {"dropout": 0.0, "input_dropout": 0.0}


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_loss_by_hand(loss: str, weight: float) -> None:
    x, y, ids = batch()
    model = warm_net()
    hand = copy.deepcopy(model)
    noise = rng.normal(64, rng.derive(SEED, "rubbish"), ids).double().view_as(x)
    clean = cross_entropy(hand(x), y)
    hand[1].eval()  # BatchNorm: noise is normalized as in tests, by the statistics after this batch
    logits = hand(noise)
    hand[1].train()
    if loss == "ce":
        denied = -(logits.softmax(1).log() / 3).sum(1).mean()
    else:
        denied = -(1 - logits.sigmoid()).log().sum(1).mean()
    wanted = clean + weight * denied
    assert_same_step(RubbishTraining(weight=weight, loss=loss), model, hand, wanted)


def test_the_recipe_inside_keeps_its_loss_and_its_keys() -> None:
    x, y, ids = batch()
    model = warm_net().eval()
    inner = PGDTraining(THREAT, 2)
    apart = [
        RubbishTraining(recipe)(model, x, y, ids=ids, seed=SEED) - recipe(model, x, y, ids=ids, seed=SEED)
        for recipe in (inner, Standard())
    ]
    torch.testing.assert_close(*apart)
    assert apart[0] > torch.log(torch.tensor(3.0)) - 1e-9  # the least is that of equal classes


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_a_net_learns_to_deny_noise_that_it_never_saw(loss: str) -> None:
    """Appendix A: hardly any noise is taken for a class, and the digits are read as before."""
    train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
    inner, sure = Standard(loss=loss), []
    for recipe in (inner, RubbishTraining(inner, loss=loss)):
        model = Maxout((1, 8, 8), units=64, pieces=3, layers=1, **DRY)
        model = Sigmoids(model) if loss == "bce" else model
        fa.train.fit(
            model, train_set, recipe, epochs=5, batch_size=32, optimizer="adam", learning_rate=6e-3,
            optimization=fa.train.Optimization(schedule="constant"),
        )  # fmt: skip
        frozen = fa.freeze(model)
        noise = rng.normal(64, 99, torch.arange(1000)).view(-1, 1, 8, 8)
        sure.append(float((frozen.confidence(noise).amax(1) > 0.5).double().mean()))
        assert fa.evaluate(model, test_set).clean_accuracy > 0.9
    assert sure[0] > 0.4
    assert sure[1] < 0.05
