"""Every recipe learns the embedded digits, and those that attack make the net robust."""

from functools import cache, partial

import pytest

import fastadv as fa
from fastadv.train import (
    AWP,
    MART,
    TRADES,
    FastTraining,
    FreeTraining,
    HiddenFGSM,
    InputNoise,
    PGDTraining,
    PriorGuidedTraining,
    RubbishTraining,
    Standard,
    WeightDecayL1,
    run,
)

THREAT = fa.Linf(0.15)
PLAIN = {
    "smooth": Standard(label_smoothing=0.1),
    "noise": InputNoise(THREAT),
    "l1": WeightDecayL1(1e-4),
    "rubbish": RubbishTraining(),
    "hidden": HiddenFGSM("features.3", 0.1),
}
ROBUST = {
    "trades": TRADES(THREAT, 3),
    "mart": MART(THREAT, 3),
    "rs": FastTraining(THREAT),
    "n-fgsm": FastTraining(THREAT, "n-fgsm"),
    "prior": PriorGuidedTraining(THREAT),
    "free": FreeTraining(THREAT, 3),
    "awp": AWP(PGDTraining(THREAT, 3), 0.005),
}


def trained(recipe):
    """Clean accuracy, and accuracy under PGD, after a second or two of training."""
    train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
    model = fa.models.create("small_cnn", shape=train_set.shape, classes=10, width=8)
    run(model, train_set, recipe, epochs=4, batch_size=32, optimizer="adam", learning_rate=3e-3)
    attack = partial(fa.attacks.pgd, threat=THREAT, steps=10)
    table = fa.evaluate(model, test_set, {"pgd": attack})
    return table.clean_accuracy, table["pgd"].robust_accuracy


@cache
def standard():
    return trained(Standard())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PLAIN.values(), ids=PLAIN)
def test_it_learns(recipe):
    assert trained(recipe)[0] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ROBUST.values(), ids=ROBUST)
def test_it_makes_the_net_robust(recipe):
    clean, robust = trained(recipe)
    assert clean > 0.8
    assert robust > standard()[1] + 0.15
