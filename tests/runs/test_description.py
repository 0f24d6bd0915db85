"""What a run is: equal descriptions for equal runs, in any process, and different ones for any other."""

import argparse
import enum
import functools
import hashlib
import inspect
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs.card import data_hash
from fastadv.runs.description import check_described, describe, describe_model
from fastadv.train import PGDTraining, Standard
from fastadv.train.augment import crop, flip
from tests.models.abs.nets import tiny


def scaled(x):
    return 2 * x


def twice(x):
    return scaled(scaled(x))


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


class Constant:
    weight = 1.0

    def __call__(self, x):
        return x * self.weight


class OtherConstant:
    weight = 2.0

    def __call__(self, x):
        return x * self.weight


OtherConstant.__qualname__ = "Constant"


class Slotted:
    __slots__ = ("_weight",)

    def __init__(self, weight):
        self._weight = weight


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
            return weight * super().distance(x_adv, x)

    object.__setattr__(made := Own(0.1), "held", held)
    return made


def attack(threat=BALL, steps=2, **options):
    return PGDTraining(threat, steps=steps, **options)


# all of them are different
VALUES = [
    *(0.1, 0.2, math.inf, math.nan, torch.arange(3), torch.arange(1, 4), math, json),
    *(Constant(), OtherConstant(), Slotted(1), Slotted(2)),
    *(argparse.Namespace(weight=1), argparse.Namespace(weight=2)),
    *(Loss(1), Loss(2), Loss(Loss(1)), Loss(Loss(2)), Loss(1).method, Loss(2).method),
    *(crop, flip, member, countdown, twice, functools.lru_cache(scaled), functools.lru_cache(twice)),
    *(functools.partial(scaled, 1), functools.partial(scaled, 2)),
    *(functools.partial(scaled, name=1), functools.partial(twice, name=1)),
    # by what a function encloses
    *(make(1.0), make(2.0), make(1.0, keyword=2.0), make(torch.ones(2)), make(torch.zeros(2))),
    *(make(Mode.FIRST), make(Mode.SECOND), make(np.arange(3)), make(np.arange(1, 4))),
    *(make([1.0, 2.0]), make([1.0, 3.0]), make(torch.float32), make(torch.float16)),
    *(make(linear(0)), make(linear(1)), make(fa.freeze(linear(0))), make(fa.freeze(linear(1)))),
    # by its source: lambdas by the lines they stand in
    lambda done: 1 - done,
    lambda done: 1 + done,
    (lambda: lambda x: x + 3)(),
    *((lambda x: x + 4), (lambda x: x + 5)),
    # a norm of a class of one's own, by its code and all that it holds
    *(norm(1), norm(2), norm(1, 0.5)),
    # by the fields of a dataclass
    *(Standard(), attack(), attack(steps=3), attack(fa.Linf(0.2)), attack(fa.L2(0.1))),
    *(attack(fa.Linf(0.1, box=(-1.0, 1.0))), attack(loss="margin")),
    attack(loss=lambda z, y, t: -z[:, 0]),
    attack(loss=lambda z, y, t: -z[:, 1]),
]


@pytest.mark.slow
def test_different_values_have_different_descriptions():
    described = [json.dumps(describe(value)) for value in VALUES]
    places = {text: place for place, text in enumerate(described)}
    assert [places[text] for text in described] == list(range(len(VALUES)))


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
    assert json.loads(text)[2] == "inf"
    assert " at 0x" not in text


def test_the_form_is_that_of_kept_runs():
    """Another one would refuse to go on with every run of before."""

    def hashed(parts):
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def coded(function, defaults=None, others=None, cells=()):
        source = textwrap.dedent(inspect.getsource(function))
        name = f"{__name__}.{function.__qualname__}"
        return f"{name} {hashed([source, defaults, others, list(cells)])}"

    assert describe(scaled) == coded(scaled)
    inner = make(2.0, keyword=torch.ones(2))
    assert describe(inner) == coded(inner, [2.0], {"other": data_hash(torch.ones(2))}, [2.0])
    members = {name: coded(getattr(Loss, name)) for name in ("__init__", "__call__", "method")}
    loss = f"{__name__}.Loss {hashed([['builtins.object'], members])}"
    assert describe(Loss(2)) == {"name": loss, "weight": 2}
    net = nn.Sequential(nn.ReLU())
    parts = {"": [NN + "container.Sequential", {}, [], []], "0": RELU}
    assert describe(net) == [f"Sequential {hashed([parts, {}])}", data_hash()]


NN = "torch.nn.modules."
RELU = [NN + "activation.ReLU", {"inplace": False}, [], []]


def without_source(text, name):
    made = {"__name__": "notebook"}
    exec(text, made)
    return made[name]


@pytest.mark.parametrize(
    "value",
    [
        functools.partial(make, without_source("doubled = lambda x: 2 * x", "doubled")),
        make(without_source("def doubled(x): return 2 * x", "doubled")),
        Loss(without_source("class Own:\n  def __call__(self, x): return x", "Own")()),
    ],
)
def test_code_without_a_source_needs_an_identity(value):
    with pytest.raises(InputError, match=r"identity: expected .* source of notebook\.(doubled|Own|<lambda>)"):
        check_described({"recipe": describe(value)})
    check_described({"recipe": describe(value, identity="first")})


def test_an_identity_stands_for_code_and_for_nothing_else():
    assert describe(scaled, identity="a") == f"{__name__}.scaled"
    assert describe(make(1.0), identity="a") == describe(make(2.0), identity="b")
    assert describe(Loss(1), identity="a") != describe(Loss(2), identity="a")
    assert describe_model(linear(0), identity="a") == describe_model(linear(0))
    with pytest.raises(InputError, match="identity: expected a text, got 3"):
        describe(scaled, identity=3)


def test_what_a_function_fills_is_not_part_of_it():
    seen: list[int] = []

    def counting(x):
        seen.append(1)
        return x

    before = describe(counting)
    counting(0)
    assert describe(counting) == before


CHANGES = [
    lambda model: model[1].eval(),
    lambda model: setattr(model[1], "p", 0.2),
    lambda model: setattr(model, "2", nn.Tanh()),
    lambda model: setattr(model, "0", nn.Conv2d(1, 2, 3, 2)),
    lambda model: setattr(model, "0", nn.Conv2d(1, 3, 3)),
    lambda model: setattr(model[0], "mean", torch.tensor(1.0)),
    lambda model: model[0].register_buffer("rest", torch.tensor(1.0), persistent=False),
    lambda model: model.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    lambda model: model.register_forward_hook(lambda module, args, output: 2 * output),
    lambda model: model.double(),
    lambda model: model.requires_grad_(False),
]


def test_models_by_class_shapes_types_flags_and_parts_not_by_weights():
    def built():
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.1), nn.ReLU())
        model[0].mean = torch.tensor(0.0)
        model[0].register_buffer("rest", torch.tensor(0.0), persistent=False)
        return model

    models = [built() for _ in CHANGES]
    for change, model in zip(CHANGES, models, strict=True):
        change(model)
    described = [describe_model(model) for model in (built(), nn.Sequential(built()), *models)]
    assert len(set(described)) == len(described)
    assert described[0] == describe_model(built()) == describe_model(built().eval())


@pytest.mark.slow
def test_a_compiled_model_is_known_by_the_model_inside():
    def net(act):
        return torch.compile(nn.Sequential(nn.Linear(3, 3), act), backend="eager")

    compiled, other, tanh = net(nn.ReLU()), net(nn.ReLU()), net(nn.Tanh())
    compiled(torch.rand(2, 3))  # what the compiler keeps is not part of the model
    assert describe_model(compiled) == describe_model(other)
    assert describe_model(compiled) != describe_model(tanh)


def test_the_model_in_training_may_appear_in_its_recipe():
    recipes = [(model, make(model)) for model in (linear(0), linear(1))]
    assert describe(recipes[0][1], recipes[0][0]) == describe(recipes[1][1], recipes[1][0])


def test_what_is_computed_once_and_where_do_not_count():
    class Squared(Loss):
        @functools.cached_property
        def square(self):
            return self.weight**2

    loss = Squared(2)
    before = describe(loss)
    assert loss.square == 4
    assert describe(loss) == before
    assert describe(make(torch.device("cpu"))) == describe(make(torch.device("meta")))


def test_a_model_that_was_used_is_the_same_model():
    """An ABS has decoded its bank by then."""
    explained, x = tiny(), torch.rand(2, 1, 8, 8)
    frozen = fa.freeze(explained)
    before = describe(explained), describe(frozen)
    fa.attacks.fgsm(frozen, x, torch.zeros(2, dtype=torch.int64), fa.Linf(0.1))
    explained(x)
    assert (describe(explained), describe(frozen)) == before
    assert describe(explained) != describe(tiny(prior_samples=201))
    assert describe(explained) != describe(tiny(seed=1))
