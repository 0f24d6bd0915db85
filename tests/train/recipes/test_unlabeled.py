"""Under Beyond, labels that are missing stand for the outputs at x, in recipes as in attacks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError

X = fa.data.load("digits", "test").x[:12]
THREAT, AWAY = fa.Linf(0.1), fa.attacks.Beyond(0.5)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh())


RECIPES = {
    "pgd": fa.train.PGDTraining(THREAT, criterion=AWAY),
    "from x": fa.train.PGDTraining(THREAT, random_start=False, criterion=AWAY),
    "cosine": fa.train.PGDTraining(THREAT, criterion=fa.attacks.Beyond(0.1, by="cosine")),
    "fgsm": fa.train.FGSMTraining(THREAT, criterion=AWAY),
}


def apart(net: nn.Module, x_adv: Tensor) -> Tensor:
    return (net(x_adv) - net(X)).norm(dim=1).detach()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_labels_trains(name: str) -> None:
    net, recipe = encoder(), RECIPES[name]
    x_adv = fa.train.craft(recipe, net, X, None, seed=0)  # type: ignore[arg-type]
    noise = THREAT.random_start(X, seed=1)
    assert (apart(net, x_adv) > 1.5 * apart(net, noise)).all()
    loss = recipe(net, X, None, seed=0)  # type: ignore[arg-type]
    loss.backward()
    assert loss > 0
    assert all(weight.grad is not None and weight.grad.any() for weight in net.parameters())


@pytest.mark.parametrize("around", [lambda recipe: recipe, fa.train.AWP], ids=["alone", "awp"])
def test_fit_takes_images_alone(around: Any) -> None:
    net = encoder()
    first, *_, last = fa.train.fit(
        net, (X, None), around(RECIPES["from x"]), epochs=20, test_set=(X, None), test_attacks=[]
    )  # fmt: skip
    assert 0 < last.loss < 0.95 * first.loss


@pytest.mark.parametrize(
    "recipe", [fa.train.PGDTraining(THREAT), fa.train.TRADES(THREAT), fa.train.Standard(),
               fa.train.PGDTraining(THREAT, criterion=fa.attacks.Signs())], ids=str,
)  # fmt: skip
def test_others_say_that_labels_are_missing(recipe: Any) -> None:
    with pytest.raises(InputError, match=r"y: expected .* got None"):
        recipe(encoder(), X, None)
