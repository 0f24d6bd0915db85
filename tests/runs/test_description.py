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


def scaled(x):
    return 2 * x


def countdown(n):
    return countdown(n - 1) if n else 0


def make(value, *, keyword=1.0):
    def inner(x, default=value, *, other=keyword):
        return x * value + default + other

    return inner


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


def member(x):
    return x in {"a", "b", "c", "d", "e"}


def linear(seed):
    generator, module = torch.Generator().manual_seed(seed), nn.Linear(2, 2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


BALL = fa.Linf(0.1)


def norm(weight, held=0.0):
    class Own(fa.L2):
        def distance(self, x_adv, x):
            return weight * held + super().distance(x_adv, x)

    object.__setattr__(made := Own(0.1), "held", held)
    return made


def twice_as_far():
    class Own(fa.L2):
        def distance(self, x_adv, x):
            return 2 * super().distance(x_adv, x)

    Own.__qualname__ = type(norm(1)).__qualname__
    return Own(0.1)


def attack(threat=BALL, steps=2, **options):
    return PGDTraining(threat, steps=steps, **options)


# all of them are different
VALUES = [
    *(0.1, 0.2, math.inf, math.nan, torch.arange(3), torch.arange(1, 4), math, json),
    *(Loss(1), Loss(2), Loss(Loss(1)), Loss(Loss(2)), Loss(1).method, Loss(2).method),
    *(crop, flip, member, countdown, torch.float32, torch.float16, Mode.FIRST, Mode.SECOND),
    *(functools.partial(scaled, 1), functools.partial(scaled, 2), functools.partial(scaled, name=1)),
    # by what a function encloses
    *(make(1.0), make(2.0), make(1.0, keyword=2.0), make(torch.ones(2)), make(torch.zeros(2))),
    *(make(np.arange(3)), make(np.arange(1, 4)), make(fa.freeze(linear(0))), make(fa.freeze(linear(1)))),
    # by code
    *(lambda done: 1 - done, lambda done: 1 + done, lambda done: 2 + done, (lambda: lambda x: x + 3)()),
    # a norm of a class of one's own, by its code and all that it holds
    *(norm(1), norm(1, 0.5), twice_as_far()),
    # by the fields of a dataclass
    *(Standard(), attack(), attack(steps=3), attack(fa.Linf(0.2)), attack(fa.L2(0.1))),
    *(attack(fa.Linf(0.1, box=(-1.0, 1.0))), attack(attack_loss="margin")),
    attack(loss=lambda z, y, t: -z[:, 0]),
    attack(loss=lambda z, y, t: -z[:, 1]),
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


def test_an_identity_stands_for_code_and_for_nothing_else():
    assert describe(scaled, identity="a") == f"{__name__}.scaled"
    assert describe(make(1.0), identity="a") == describe(make(2.0), identity="b")
    assert describe(Loss(1), identity="a") != describe(Loss(2), identity="a")
    refuses("identity: expected a text, got 3", describe, scaled, identity=3)


def test_what_changes_in_use_is_not_part_of_it():
    seen: list[int] = []

    def counting(x):
        seen.append(1)
        return x

    class Squared(Loss):
        @functools.cached_property
        def square(self):
            return self.weight**2

    loss = Squared(2)
    explained, x = tiny(), torch.rand(2, 1, 8, 8)  # an ABS, which decodes its bank once
    used = [counting, loss, explained, fa.freeze(explained)]
    before = [describe(each) for each in used]
    assert loss.square == counting(4) ** 2 / 4
    fa.attacks.fgsm(used[-1], x, torch.zeros(2, dtype=torch.int64), fa.Linf(0.1))
    explained(x)
    assert [describe(each) for each in used] == before
    assert describe(explained) != describe(tiny(seed=1))


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


def attack_of(**members: object) -> object:
    return type("Own", (type("Base", (), {"__call__": members.pop("call", None)}),), members)()


def in_a_closure(kept: object) -> object:
    return lambda model, x, y: (kept, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: in_a_closure({"size": size}),
        lambda size: in_a_closure([size]),
        lambda size: attack_of(size=size),
        lambda size: attack_of(near=staticmethod((lambda x: x + 1, lambda x: x + 2)[size > 1])),
        lambda size: attack_of(near=property((lambda x: x + 1, lambda x: x + 2)[size > 1])),
        lambda size: attack_of(call=(lambda self, x: x + 1, lambda self, x: x + 2)[size > 1]),
        lambda size: functools.lru_cache((lambda x: x + 1, lambda x: x + 2)[size > 1]),
        lambda size: nn.CrossEntropyLoss(label_smoothing=size / 10),
    ],
)
def test_what_an_attack_of_your_own_holds_tells_it_from_another(make):
    assert describe(make(1)) == describe(make(1)) != describe(make(2))


def test_slots_tell_an_attack_from_another():
    class Own:
        __slots__ = ("size",)

    def made(size):
        attack = Own()
        attack.size = size
        return attack

    assert describe(made(1)) == describe(made(1)) != describe(made(2))
