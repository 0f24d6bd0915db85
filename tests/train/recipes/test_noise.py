"""Goodfellow's controls, noise and L1 decay, and label smoothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.train import FGSMTraining, InputNoise, PGDTraining, Standard, WeightDecayL1
from tests.train.recipes.hand import RADIUS, SEED, assert_same_step, batch, gradients, warm_net

THREAT = fa.Linf(RADIUS)


@pytest.mark.parametrize("kind", ["sign", "uniform"])
def test_noise_by_hand(kind):
    x, y, ids = batch()
    model = warm_net()
    hand = copy.deepcopy(model)
    noise = 2 * rng.uniform(64, rng.derive(SEED, "input noise"), ids).double().view_as(x) - 1
    noise = noise.sign() if kind == "sign" else noise
    wanted = cross_entropy(hand((x + RADIUS * noise).clamp(0, 1)), y)
    assert_same_step(InputNoise(THREAT, kind), model, hand, wanted)


def test_l1_decay_of_the_first_layer_alone():
    x, y, ids = batch()
    model = warm_net()
    hand = copy.deepcopy(model)
    inner = PGDTraining(THREAT, 2)
    wanted = inner(hand, x, y, ids=ids, seed=SEED) + 0.01 * hand[0].weight.abs().sum()
    assert_same_step(WeightDecayL1(0.01, inner), model, hand, wanted)
    plain = gradients(Standard()(hand, x, y), hand)
    decayed = gradients(WeightDecayL1(0.01)(hand, x, y), hand)
    torch.testing.assert_close(decayed[0] - plain[0], 0.01 * hand[0].weight.sign())
    torch.testing.assert_close(decayed[1:], plain[1:])


@pytest.mark.parametrize(
    "recipe",
    [Standard(0.3), FGSMTraining(THREAT, 0.3, 0.3), InputNoise(THREAT, label_smoothing=0.3)],
    ids=["standard", "fgsm", "noise"],
)
def test_smoothing_is_that_of_the_labels(recipe):
    x, y, ids = batch()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    chances = torch.tensor([0.0, 1.0, 3.0]).double().log_softmax(0)
    wanted = -(0.7 * chances[y] + 0.3 * chances.mean()).mean()
    torch.testing.assert_close(recipe(model, x, y, ids=ids), wanted)
