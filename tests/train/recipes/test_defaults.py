"""The length of a step that is not given is the one that the recipe says."""

import dataclasses

import pytest
import torch

import fastadv as fa
from fastadv import train
from tests.train.recipes import hand
from tests.train.test_recipes import flat_net

THREAT = fa.Linf(0.1)
LENGTHS = {
    "pgd": (train.PGDTraining(THREAT, 4), 2.5 * 0.1 / 4),
    "trades": (train.TRADES(THREAT, 4), 2.5 * 0.1 / 4),
    "mart": (train.MART(THREAT, 4), 2.5 * 0.1 / 4),
    "score": (train.SCORE(THREAT, 4), 2.5 * 0.1 / 4),
    "hat": (train.HAT(THREAT, 4, helper=flat_net(1).double()), 2.5 * 0.1 / 4),
    "smoothadv": (train.SmoothAdv(fa.L2(0.5), 0.3, steps=4), 2 * 0.5 / 4),
    "rs": (train.FastTraining(THREAT), 1.25 * 0.1),
    "n-fgsm": (train.FastTraining(THREAT, "n-fgsm"), 0.1),
    "free": (train.FreeTraining(THREAT, 2), 0.1),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_step_that_is_not_given_has_the_length_that_the_recipe_says(name):
    recipe, length = LENGTHS[name]

    def loss(step_size):
        sized, model = dataclasses.replace(recipe, step_size=step_size), hand.warm_net()
        if callable(sized):
            x, y, ids = hand.batch()
            return sized(model, x, y, ids=ids, seed=hand.SEED)
        return sized.step(hand.step_at(model))

    torch.testing.assert_close(loss(None), loss(length))
    assert (loss(None) - loss(0.8 * length)).abs() > 1e-5
