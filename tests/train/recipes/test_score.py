"""SCORE by hand: squared distances of probabilities, in the attack and in the loss."""

import copy
import dataclasses

import torch
from torch.nn.functional import one_hot

import fastadv as fa
from fastadv.train import SCORE
from tests.train.recipes import hand

RECIPE = SCORE(fa.Linf(hand.RADIUS), hand.STEPS, hand.STEP_SIZE, beta=3.0, label_smoothing=0.3)


def test_value_gradient_and_statistics():
    x, y, ids = hand.batch()
    for start in ("uniform", "near"):
        model, recipe = hand.warm_net(), dataclasses.replace(RECIPE, start=start)
        twin = copy.deepcopy(model)
        fixed = hand.evaluated(twin)(x).softmax(1).detach()
        begin = RECIPE.threat.random_start(x, seed=hand.SEED, ids=ids)
        begin = begin if start == "uniform" else hand.near(x, ids)
        x_adv = hand.ascend(twin, x, lambda z, p=fixed: ((z.softmax(1) - p) ** 2).sum(1), begin)
        made = recipe.craft(model, x, y, ids=ids, seed=hand.SEED)
        torch.testing.assert_close(made, x_adv, rtol=0, atol=1e-6)  # the start is drawn in float32
        p, q = twin(x).softmax(1), twin(made).softmax(1)
        labels = 0.7 * one_hot(y, 3).double() + 0.1
        wanted = (((p - labels) ** 2).sum(1) + 3 * ((q - p) ** 2).sum(1)).mean()
        hand.assert_same_step(recipe, model, twin, wanted)
