"""What a recipe takes where nothing is said: the figures of its paper, and the length of a step."""

import dataclasses
import inspect

import pytest
import torch

import fastadv as fa
from fastadv import train
from tests.train.recipes import hand
from tests.train.test_recipes import flat_net

THREAT = fa.Linf(0.1)
COMMON = {
    "steps": 7, "replays": 4, "step_size": None, "label_smoothing": 0.0, "loss": "ce", "start": "near",
    "recipe": train.Standard(),
}  # fmt: skip
DEFAULTS = {
    "AWP": {"gamma": 0.01},
    "Consistency": {"weight": 10.0, "entropy": 0.5, "noises": 2},
    "FGSMTraining": {"weight": 0.5},
    "FastTraining": {"method": "rs", "noise": None, "clamp_start": True},
    "FreeTraining": {},
    "GaussianTraining": {},
    "HAT": {"beta": 2.5, "gamma": 0.5, "far": 2.0},
    "HiddenFGSM": {"weight": 0.5},
    "InputNoise": {"kind": "sign", "weight": 0.0},
    "MART": {"beta": 5.0},
    "PGDTraining": {"random_start": True, "weight": 0.0, "statistics": "adversarial"},
    "RobustLogistic": {"weight": 0.0},
    "RubbishTraining": {"weight": 1.0},
    "SCORE": {"beta": 4.0, "start": "uniform"},
    "SmoothAdv": {"noises": 4, "steps": 10},
    "Standard": {},
    "TRADES": {"beta": 6.0},
    "WeightDecayL1": {},
}
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


def test_every_recipe_has_the_figures_of_its_paper():
    classes = {name: each for name, each in vars(train).items() if inspect.isclass(each)}
    found = {
        name: {field.name: field.default for field in dataclasses.fields(each)}
        for name, each in classes.items()
        if ".recipes." in each.__module__ and dataclasses.is_dataclass(each) and name != "Step"
    }
    for name, fields in found.items():
        given = {key: value for key, value in fields.items() if value is not dataclasses.MISSING}
        common = {key: value for key, value in COMMON.items() if key in given}
        assert given == common | DEFAULTS[name], name
    assert found.keys() == DEFAULTS.keys()


@pytest.mark.parametrize("name", LENGTHS)
def test_a_step_that_is_not_given_has_the_length_that_the_recipe_says(name):
    recipe, length = LENGTHS[name]

    def loss(step_size):
        given, model = dataclasses.replace(recipe, step_size=step_size), hand.warm_net()
        if callable(given):
            x, y, ids = hand.batch()
            return given(model, x, y, ids=ids, seed=hand.SEED)
        return given.step(hand.step_at(model))

    torch.testing.assert_close(loss(None), loss(length))
    assert (loss(None) - loss(0.8 * length)).abs() > 1e-5
