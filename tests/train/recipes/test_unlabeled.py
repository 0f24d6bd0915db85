"""Under Beyond, labels that are missing stand for the outputs at x, in recipes as in attacks."""

from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError

X = fa.data.load("digits", "test").x[:12]
THREAT, AWAY = fa.Linf(0.1), fa.attacks.Beyond(0.5)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh())


RECIPES = [
    fa.train.PGDTraining(THREAT, random_start=False, criterion=AWAY),
    fa.train.PGDTraining(THREAT, criterion=fa.attacks.Beyond(0.1, by="cosine")),
    fa.train.FGSMTraining(THREAT, criterion=AWAY),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_recipe_without_labels_trains(recipe: Any) -> None:
    net = encoder()
    x_adv, noise = fa.train.craft(recipe, net, X, None, seed=0), THREAT.random_start(X, seed=1)  # type: ignore[arg-type]
    apart, by_chance = ((net(points) - net(X)).norm(dim=1) for points in (x_adv, noise))
    assert (apart > 1.5 * by_chance).all()
    recipe(net, X, None, seed=0).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in net.parameters())


@pytest.mark.parametrize("around", [lambda recipe: recipe, fa.train.AWP], ids=["alone", "awp"])
def test_fit_takes_images_alone(around: Any) -> None:
    first, *_, last = fa.train.fit(encoder(), (X, None), around(RECIPES[0]), epochs=20)
    assert 0 < last.loss < 0.95 * first.loss


@pytest.mark.parametrize("recipe", [fa.train.TRADES(THREAT), fa.train.Standard()], ids=str)
def test_others_say_that_labels_are_missing(recipe: Any) -> None:
    with pytest.raises(InputError, match=r"y: expected .* got None"):
        recipe(encoder(), X, None)
