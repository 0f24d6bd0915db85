"""A clamp or window inside the model is told, its cure is one, and nets without one are not accused."""

from functools import partial
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softshrink

import fastadv as fa
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import clamped_input
from fastadv.engine import prepare
from tests.attacks.masking.nets import HONEST, honest, in_front
from tests.defenses import Pointwise
from tests.logged import Logged

TEST = fa.data.load("digits", "test", limit=100)
EQUAL, WIDE = (0.0, 1.0), (-1.0, 2.0)
FRONTS: dict[str, Any] = {  # a function, the box, and that of the clamp
    "clamp": (lambda x: x.clamp(0, 1), WIDE, EQUAL),
    "without a bound": (lambda x: x.clamp(0, 1), (-inf, inf), EQUAL),
    "relu": (relu, (-1.0, 1.0), EQUAL),
    "wider": (lambda x: x.clamp(-0.05, 1.05), WIDE, (-0.05, 1.05)),
    "window": (lambda x: x.clamp(0.12, 1), EQUAL, None),
    "softshrink": (lambda x: softshrink(x, 0.12), EQUAL, None),
}


def share(model: Any, threat: fa.Threat, mask: Tensor | None = None) -> float:
    with torch.no_grad():
        y = model(TEST.x[:8]).argmax(1)
    return clamped_input.share(Task.of(prepare(model), TEST.x[:8], y, threat, mask=mask), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FRONTS)
def test_a_clamp_is_told_and_its_cure_is_one(name: str) -> None:
    front, box, narrow = FRONTS[name]
    model, pgd = (
        in_front(Pointwise(front)),
        partial(fa.evaluate, attacks="pgd", threat=fa.Linf(0.15, box=box)),
    )
    hidden = pgd(model, TEST)
    assert hidden.headline.startswith("Not a robust accuracy: the model clamps its input.")
    assert "bpda" in hidden.verdict.splitlines()[-1]
    mended = pgd(fa.models.bpda(model, {"before": "identity"}), TEST)
    assert "clamped_input" not in mended.indicators.flagged
    searched = fa.attacks.square(model, TEST.x, TEST.y, fa.Linf(0.15, box=box), queries=1000).robust_accuracy
    assert mended.worst_case <= min(searched, hidden.worst_case) + 0.05
    if narrow is not None:
        narrowed = fa.models.bpda(model, {"before": "identity"})  # a ReLU is flat on the bound, too
        wanted = fa.attacks.pgd(narrowed, TEST.x, TEST.y, fa.Linf(0.15, box=narrow)).robust_accuracy
        assert abs(mended.worst_case - wanted) <= 0.04


@pytest.mark.parametrize("norm", [fa.Linf(0.15), fa.Linf(0.02), fa.L2(0.9), fa.L1(4.0), fa.L0(6)])
def test_nets_that_clamp_nothing_are_not_accused(norm: fa.Threat) -> None:
    """Nor where the box is that of the clamp, for a maximum of neighbors, or a background no filter sees."""
    blind = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    nn.init.normal_(blind[0].weight, std=0.3, generator=torch.Generator().manual_seed(0))
    nn.init.constant_(blind[0].bias, -0.3)
    largest = in_front(nn.MaxPool2d(3, 1, 1))
    threats = [type(norm)(norm.radius, box=box) for box in (EQUAL, WIDE)]
    for model in (*map(honest, HONEST[:-1]), largest, blind.eval()):
        assert [share(model, threat) for threat in threats] == [0.0, 0.0]
    clamp, kink = (in_front(Pointwise(FRONTS[name][0])) for name in ("clamp", "relu"))
    assert share(clamp, threats[0]) == 0
    assert share(kink, threats[0]) > clamped_input.LIMIT  # where values stand on its bound
    assert share(clamp, threats[1]) > 2 * clamped_input.LIMIT
    assert share(nn.Sequential(clamp, nn.Threshold(1e9, 0.0)), threats[1]) == 0  # flat everywhere
    assert share(clamp, fa.L0(6, box=(-inf, inf))) == 0  # no random start
    bright = (TEST.x[:8] > 0.3) & (TEST.x[:8] < 0.7)  # values that may not move do not count
    assert (share(clamp, threats[1], bright), share(clamp, threats[1], ~bright) > 0.05) == (0, True)
    ceiling = in_front(Pointwise(lambda x: 1 - relu(1 - x)))  # flat from the upper bound on
    assert share(ceiling, fa.Linf(0.5)) > clamped_input.LIMIT


@pytest.mark.parametrize(("name", "flat"), [("clamp", 0), ("relu", 1)])
def test_training_through_a_clamp_is_told_once(name: str, flat: int, logged: Logged) -> None:
    """In the box of the clamp only a ReLU is told, which is flat on its bound."""
    front, wide, _ = FRONTS[name]
    near, away, said = fa.Linf(0.15, box=EQUAL), fa.Linf(0.15, box=wide), []
    threats = (away, [fa.L2(0.9, box=wide), away], near)
    recipes = (fa.train.PGDTraining(each, steps=1) for each in threats)
    for recipe in (*recipes, fa.train.FreeTraining(away), fa.train.Standard()):
        model = nn.Sequential(Pointwise(front), fa.models.create("softmax", shape=(1, 8, 8), classes=10))
        fa.train.fit(model, TEST, recipe, epochs=2)
        said.append(logged.text.count("the model clamps its input, so examples are weak"))
    assert said == [1, 2, 2 + flat, 3 + flat, 3 + flat]


def test_a_clamp_that_one_of_several_threats_meets_is_told_in_training(logged: Logged) -> None:
    front, wide, _ = FRONTS["wider"]
    recipe = fa.train.PGDTraining([fa.Linf(0.02, box=wide), fa.L2(3.0, box=wide)], steps=1)
    model = nn.Sequential(Pointwise(front), fa.models.create("softmax", shape=(1, 8, 8), classes=10))
    fa.train.fit(model, TEST, recipe, epochs=1)
    assert "the model clamps its input" in logged.text
