"""What a run is: equal descriptions for equal runs, in any process, and different ones for any other."""

import enum
import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.runs.identity import describe, describe_model
from fastadv.train import PGDTraining, Standard
from fastadv.train.augment import crop, flip
from tests.models.abs.nets import tiny
from tests.refusals import refuses


def scaled(x, by=2):
    return by * x


@torch.no_grad()
def halved(x):
    return x / 2


def countdown(n):
    return countdown(n - 1) if n else 0


def make(value, *, keyword=1.0):
    def inner(x, default=value, *, other=keyword):
        return x * value + default + other

    return inner


def other(value):
    def inner(x):
        return x - value

    inner.__qualname__ = "make.<locals>.inner"
    return inner


def named(**values):
    def function(x):
        return x

    vars(function).update(values)
    return function


class Loss:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, x):
        return x * self.weight

    def method(self, x):
        return x


class Mode(enum.Enum):
    FIRST = 1
    SECOND = 2


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


class Norm(fa.L2):
    def distance(self, x_adv, x):
        return 2 * super().distance(x_adv, x)


def linear(seed):
    generator, module = torch.Generator().manual_seed(seed), nn.Linear(2, 2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


def norm(held):
    object.__setattr__(made := Norm(0.1), "held", held)
    return made


BALL = fa.Linf(0.1)


def attack(threat=BALL, steps=2, **options):
    return PGDTraining(threat, steps=steps, **options)


# all of them are different
VALUES = [
    *(0.1, 0.2, math.inf, math.nan, torch.arange(3), torch.arange(1, 4), math, json),
    *(Loss(1), Loss(2), Loss(Loss(1)), Loss(Loss(2)), Loss(1).method, Loss(2).method),
    *(crop, flip, scaled, halved, countdown, torch.float32, torch.float16, Mode.FIRST, Mode.SECOND),
    *(functools.partial(scaled, 1), functools.partial(scaled, 2), functools.partial(scaled, by=1)),
    *(functools.lru_cache(make(3.0)), functools.lru_cache(make(4.0))),
    # by what a function holds
    *(make(1.0), make(2.0), make(1.0, keyword=2.0), make(torch.ones(2)), make(torch.zeros(2))),
    *(make(np.arange(3)), make(np.arange(1, 4)), make(fa.freeze(linear(0))), make(fa.freeze(linear(1)))),
    *(make(fa.Linf(0.1)), make((1, BALL)), named(), named(size=1), named(size=2)),
    # by source
    *(other(1.0), Twice(), nn.Identity(), linear(0), linear(1), norm(0.0), norm(0.5), fa.L2(0.1)),
    *(nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    # by the fields of a dataclass
    *(Standard(), attack(), attack(steps=3), attack(fa.Linf(0.2)), attack(fa.L2(0.1))),
    *(attack(fa.Linf(0.1, box=(-1.0, 1.0))), attack(attack_loss="margin"), attack(loss=scaled)),
]


def test_different_values_have_different_descriptions():
    described = [json.dumps(describe(value)) for value in VALUES]
    assert len({*described}) == len(VALUES)


@pytest.mark.slow
def test_a_description_is_the_same_in_every_process_and_holds_no_address():
    root = Path(fa.__file__).parents[1]
    code = "import json, test_description as t\nprint(json.dumps([t.describe(value) for value in t.VALUES]))"
    text = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{root}:{Path(__file__).parent}", "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert __name__ == "test_description"
    assert json.loads(text) == [describe(value) for value in VALUES]
    assert " at 0x" not in text


def local(value):
    class Local:
        size = value

    return Local()


UNKNOWN = {
    "a lambda": lambda x: x,
    "it holds objects": make(Loss(1)),
    "a class in a function": local(1),
    "its source cannot be read": eval("type('Made', (), {})()"),
}


@pytest.mark.parametrize("why", UNKNOWN)
def test_what_cannot_be_told_asks_for_an_identity(why):
    for value in (UNKNOWN[why], functools.partial(scaled, UNKNOWN[why]), [Loss(UNKNOWN[why])]):
        refuses(rf"identity: expected a text, .* got None; pass identity='1'.*{why}", describe, value)
        describe(value, identity="1")
    for held in ([1], {"size": 1}, {1}, (1, [2])):
        refuses("it holds objects", describe, make(held))
        refuses("it holds objects", describe, named(seen=held))


def test_an_identity_stands_for_code_and_for_nothing_else():
    assert describe(scaled, identity="a") == f"{__name__}.scaled"
    assert describe(make(1.0), identity="a") == describe(make(2.0), identity="b")
    assert describe(Loss(1), identity="a") != describe(Loss(2), identity="a")
    refuses("identity: expected a text, got 3", describe, scaled, identity=3)


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return "Slots"


class Beside(Slots):
    """It has a dictionary, too."""


def test_slots_and_defaults_are_values():
    def made(factor):
        def scaled(x, factor=factor):
            return factor * x

        return scaled

    for kind in (Slots, Beside, made):
        assert describe(kind(1.0)) == describe(kind(1.0)) != describe(kind(2.0))
        assert kind is made or describe(kind(1.0), identity="1") != describe(kind(2.0), identity="1")


def test_what_changes_in_use_is_not_part_of_it():
    class Squared(Loss):
        @functools.cached_property
        def square(self):
            return self.weight**2

    loss = Squared(2)
    explained, x = tiny(), torch.rand(2, 1, 8, 8)  # an ABS, which decodes its bank once
    used = [loss, explained, fa.freeze(explained)]
    before = [describe(each, identity="") for each in used]
    assert loss.square == 4
    fa.attacks.fgsm(used[-1], x, torch.zeros(2, dtype=torch.int64), fa.Linf(0.1))
    explained(x)
    assert [describe(each, identity="") for each in used] == before
    assert describe(explained) != describe(tiny(seed=1))


def test_an_object_that_holds_itself_has_an_end():
    loss = Loss(1)
    loss.weight = [loss]
    assert "again" in str(describe(loss))


CHANGES = [
    lambda model: setattr(model[1], "p", 0.2),
    lambda model: setattr(model, "2", nn.Tanh()),
    lambda model: setattr(model, "0", nn.Conv2d(1, 2, 3, 2)),
    lambda model: setattr(model, "0", nn.Conv2d(1, 3, 3)),
    lambda model: model.double(),
    lambda model: model.requires_grad_(False),
]


def test_models_by_class_shapes_types_flags_and_parts_not_by_weights():
    def built():
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.1), nn.ReLU())

    models = [built() for _ in CHANGES]
    for change, model in zip(CHANGES, models, strict=True):
        change(model)
    described = [describe_model(model) for model in (built(), nn.Sequential(built()), *models)]
    assert len({*described}) == len(described)
    assert described[0] == describe_model(built()) == describe_model(built().eval())
    assert describe_model(torch.compile(built(), backend="eager")) == described[0]


def test_the_model_in_training_may_appear_in_its_recipe():
    recipes = [(model, make(model)) for model in (linear(0), linear(1))]
    assert describe(recipes[0][1], recipes[0][0]) == describe(recipes[1][1], recipes[1][0])
    assert describe(make(torch.device("cpu"))) == describe(make(torch.device("meta")))
