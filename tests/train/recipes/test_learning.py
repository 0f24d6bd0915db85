"""Recipes that attack, each in another way, make a net robust."""

from functools import cache, partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv import train

THREAT = fa.Linf(0.15)
ROBUST = {
    "pgd": train.PGDTraining(THREAT, 3),
    "free": train.FreeTraining(THREAT, 3),
}


def trained(recipe):
    """Clean accuracy, and accuracy under PGD, after a fraction of a second of training."""
    train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    train.fit(
        model, train_set, recipe, epochs=4, batch_size=32, optimizer="adam", learning_rate=5e-3,
        optimization=train.Optimization(schedule="constant"),
    )  # fmt: skip
    table = fa.evaluate(model, test_set, {"pgd": partial(fa.attacks.pgd, threat=THREAT, steps=5)})
    return table.clean_accuracy, table["pgd"].robust_accuracy


@cache
def standard():
    return trained(train.Standard())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ROBUST.values(), ids=ROBUST)
def test_it_makes_the_net_robust(recipe):
    clean, robust = trained(recipe)
    assert clean > 0.8
    assert robust > standard()[1] + 0.15
