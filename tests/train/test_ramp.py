"""The ramp: radius, step size and steps of each epoch, and what cannot climb."""

from math import inf

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import AWP, TRADES, FGSMTraining, Optimization, PGDTraining, Standard
from fastadv.train.optim import first_recipes, ramped

from .nets import images, net


def by_epoch(ramp, **options):
    recipe = PGDTraining(**{"threat": fa.Linf(0.3), "steps": 6, "step_size": 0.1, **options})
    first = first_recipes(Optimization(ramp=ramp), recipe, 4)
    recipes = first + [recipe] * (4 - len(first))
    return [(round(each.threat.radius, 10), each.steps, each.step_size) for each in recipes]


def test_the_radius_grows_by_the_same_amount_after_each_epoch():
    assert [radius for radius, *_ in by_epoch(2)] == [0.1, 0.2, 0.3, 0.3]
    assert [radius for radius, *_ in by_epoch(0.75)] == [0.075, 0.15, 0.225, 0.3]
    assert by_epoch(0.7) == by_epoch(0.75)  # a share is that of the nearest number of epochs


def test_the_step_size_keeps_its_ratio_to_radius_over_steps():
    for ramp in (3, 2):
        for radius, steps, step_size in by_epoch(ramp):
            assert step_size * steps / radius == pytest.approx(0.1 * 6 / 0.3)
    assert {step_size for *_, step_size in by_epoch(2, step_size=None)} == {None}


@pytest.mark.slow
def test_the_first_epoch_is_that_of_the_smaller_radius():
    small, climbing = net(), net()
    options = {"epochs": 2, "batch_size": 25}
    recipe = PGDTraining(fa.Linf(0.2), steps=2, step_size=0.12)
    runs = (
        fa.train.epochs(climbing, images(), recipe, optimization=Optimization(ramp=1), **options),
        fa.train.epochs(small, images(), PGDTraining(fa.Linf(0.1), steps=2, step_size=0.06), **options),
    )
    assert len({next(each).loss for each in runs}) == 1
    assert torch.equal(small[5].weight, climbing[5].weight)
    assert next(runs[0]).loss > next(runs[1]).loss


def test_inside_other_recipes_and_for_every_recipe_with_a_threat():
    threat = fa.Linf(0.3)
    steps = fa.train.FastTraining(threat), fa.train.FreeTraining(threat, 2), AWP(PGDTraining(threat, 2, 0.1))
    for recipe in (FGSMTraining(threat), TRADES(threat, 2), *steps):
        first = ramped(2, recipe, 5)[0]
        inner = first.recipe if isinstance(first, AWP) else first
        assert type(first) is type(recipe)
        assert inner.threat.radius == pytest.approx(0.1)
    (first,) = ramped(1, AWP(PGDTraining(threat, 2, 0.1), gamma=0.02), 5)
    assert (first.gamma, first.recipe.step_size) == (0.02, 0.05)


def test_coordinates_are_counted():
    first, second = ramped(2, PGDTraining(fa.L0(10), steps=5, step_size=2), 5)
    assert (first.threat.radius, second.threat.radius) == (4, 7)
    assert (first.step_size, second.step_size) == (1.0, pytest.approx(4 / 3))
    for count in range(1, 12):
        steps = ramped(count, PGDTraining(fa.L0(3 * (count + 1)), steps=2), count + 1)
        assert [one.threat.radius for one in steps] == [3 * (k + 1) for k in range(count)]


FGSM, INFINITE = FGSMTraining(fa.Linf(0.1)), PGDTraining(fa.Linf(inf), 2, 0.1, random_start=False)
RECIPES = [
    ("ramp: expected from 1 epoch to fewer than all 2, got 2", 2, FGSM, 2),
    ("ramp: expected from 1 epoch to fewer than all 4, got 0", 0.1, FGSM, 4),
    ("threat of finite radius", 1, Standard(), 4),
    ("threat of finite radius", 1, lambda model, x, y: 0, 4),
    ("threat of finite radius", 1, INFINITE, 4),
]


@pytest.mark.parametrize(("word", "ramp", "recipe", "epochs"), RECIPES, ids=range(len(RECIPES)))
def test_what_cannot_climb_is_named(word, ramp, recipe, epochs):
    with pytest.raises(InputError, match=word):
        ramped(ramp, recipe, epochs)
