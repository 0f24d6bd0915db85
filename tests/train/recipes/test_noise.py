"""Goodfellow's controls, noise and L1 decay, and label smoothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.errors import InputError
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


@pytest.mark.parametrize("kind", ["sign", "uniform"])
def test_noise_is_fresh_for_each_id_and_seed_and_fills_the_ball(kind):
    x, ids = torch.full((40, 1, 8, 8), 0.5), torch.arange(40)
    recipe = InputNoise(THREAT, kind)
    one, two = (recipe.craft(nn.Identity(), x, ids, ids=ids, seed=seed) - x for seed in (1, 2))
    assert one.flatten(1).unique(dim=0).shape[0] == 40
    assert ((one - two).abs() > 1e-3).flatten(1).any(1).all()
    assert abs(one.mean()) < 0.05 * RADIUS
    assert one.abs().mean() == pytest.approx(RADIUS * (1 if kind == "sign" else 0.5), rel=0.05)
    flipped = recipe.craft(nn.Identity(), x, ids, ids=ids.flip(0), seed=1) - x
    assert torch.equal(flipped.flip(0), one)


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
    "make",
    [
        lambda s: Standard(label_smoothing=s),
        lambda s: FGSMTraining(THREAT, weight=0.3, label_smoothing=s),
        lambda s: PGDTraining(THREAT, 2, label_smoothing=s),
        lambda s: InputNoise(THREAT, label_smoothing=s),
    ],
    ids=["standard", "fgsm", "pgd", "noise"],
)
def test_smoothing_changes_the_loss_and_not_the_examples(make):
    x, y, ids = batch()
    plain, smooth = make(0.0), make(0.3)
    if hasattr(plain, "craft"):
        made = [each.craft(warm_net(), x, y, ids=ids, seed=SEED) for each in (plain, smooth)]
        assert torch.equal(*made)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    chances = torch.tensor([0.0, 1.0, 3.0]).double().log_softmax(0)
    wanted = -(0.7 * chances[y] + 0.3 * chances.mean()).mean()
    torch.testing.assert_close(smooth(model, x, y, ids=ids), wanted)


def test_a_model_without_weights_to_decay_is_named():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x.flatten(1)[:, :3] + self.bias

    x, y, ids = batch()
    with pytest.raises(InputError, match="model: expected a layer"):
        WeightDecayL1(0.1)(Shift(), x.float(), y, ids=ids)
