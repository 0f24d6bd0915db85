"""Images of uint8 are taken as data sets serve them: as float32 in [0, 1], in that box alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.errors import InputError

EIGHT = (fa.data.load("digits", "test").x[:6] * 255).round().to(torch.uint8)
X = EIGHT.float() / 255
NET = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
Y, IDS = NET(X).argmax(1), torch.arange(6)
A = fa.attacks
LINF, L2, MASK = fa.Linf(0.1), fa.L2(1.0), torch.ones(1, 1, 8, 8).bool()
MASK[..., 4:] = False
PATCH = fa.Patch((3, 3))

ATTACKS: dict[str, Callable[[Tensor], Any]] = {
    "pgd": lambda x: A.pgd(NET, x, Y, LINF),
    "masked": lambda x: A.pgd(NET, x, Y, LINF, mask=MASK, eot=2),
    "apgd": lambda x: A.apgd(NET, x, Y, L2, steps=5),
    "square": lambda x: A.square(NET, x, Y, LINF, queries=1000),
    "boundary": lambda x: A.boundary(NET, x, Y, L2, steps=10),
    "cw": lambda x: A.cw(NET, x, Y, L2, steps=3, searches=1),
    "minimum_norm": lambda x: A.minimum_norm(NET, x, Y, L2, steps=10),
    "minimum_radius": lambda x: A.minimum_radius(NET, x, Y, L2, attack=partial(A.fgsm)),
    "transfer": lambda x: A.transfer(NET, x, Y, L2, source=NET, attack=partial(A.ddn, steps=5)),
    "autoattack": lambda x: A.autoattack(NET, x, Y, LINF, version="quick"),
    "moved": lambda x: A.grid(NET, x, Y, fa.Moved(1, 5), points=3),
    "patch": lambda x: A.pgd(NET, x, Y, PATCH),
    "universal": lambda x: A.universal(NET, (X, Y), LINF, epochs=1)(NET, x, Y),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_the_same(name: str) -> None:
    out, expected = ATTACKS[name](EIGHT), ATTACKS[name](X)
    assert out.x_adv.dtype == torch.float32
    assert torch.equal(out.x_adv, expected.x_adv)
    assert torch.equal(out.distance, expected.distance)


TRAINING = {
    "standard": fa.train.Standard(),
    "pgd": fa.train.PGDTraining(LINF),
    "gaussian": fa.train.GaussianTraining(0.1),
    "consistency": fa.train.Consistency(0.1),
    "rubbish": fa.train.RubbishTraining(),
}


@pytest.mark.parametrize("recipe", TRAINING)
def test_a_recipe_gives_the_same(recipe: str) -> None:
    losses = [TRAINING[recipe](NET, x, Y, ids=IDS, seed=0) for x in (EIGHT, X)]
    assert torch.equal(*losses)


def test_what_else_takes_images() -> None:
    recipe = fa.train.TRADES(LINF)
    assert torch.equal(*(fa.train.craft(recipe, NET, x, Y, seed=0) for x in (EIGHT, X)))
    assert torch.equal(*(A.last_iterate(NET, x, Y, LINF, steps=2, step_size=0.1) for x in (EIGHT, X)))
    cut = torch.nn.Sequential(fa.models.Binarized(NET))
    assert A.masked_modules(cut, EIGHT) == A.masked_modules(cut, X)
    assert str(A.indicators(NET, EIGHT, Y, LINF)) == str(A.indicators(NET, X, Y, LINF))


@pytest.mark.parametrize("box", [(-1.0, 1.0), (0.0, 255.0)])
def test_another_box_and_other_integers_are_refused(box: tuple[float, float]) -> None:
    there = fa.Linf(0.1, box=box)
    for call in (
        lambda: A.pgd(NET, EIGHT, Y, there),
        lambda: A.last_iterate(NET, EIGHT, Y, there, steps=1, step_size=0.1),
        lambda: fa.train.craft(fa.train.PGDTraining(there), NET, EIGHT, Y),
    ):
        with pytest.raises(InputError, match=r"got uint8, which is served in \[0, 1\]"):
            call()
    for refuses in (partial(A.pgd, NET, y=Y, threat=LINF), partial(A.masked_modules, NET)):
        with pytest.raises(InputError, match=r"got torch.int16 .* x.float\(\) / 255"):
            refuses(x=EIGHT.short())
