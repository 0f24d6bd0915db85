"""Images of uint8 are taken as data sets serve them: as float32 in [0, 1], in that box alone."""

from functools import partial
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from tests.refusals import refuses

EIGHT = (fa.data.load("digits", "test").x[:6] * 255).round().to(torch.uint8)
X = EIGHT.float() / 255
NET = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
Y, IDS = NET(X).argmax(1), torch.arange(6)
A, LINF, L2, HALF = fa.attacks, fa.Linf(0.1), fa.L2(1.0), torch.arange(8) < 4

ATTACKS: dict[str, Any] = {
    "pgd": partial(A.pgd, threat=LINF, mask=HALF, eot=2),
    "square": partial(A.square, threat=LINF, queries=1000),
    "minimum_norm": partial(A.minimum_norm, threat=L2, steps=10),
    "transfer": partial(A.transfer, threat=L2, source=NET, attack=partial(A.ddn, steps=5)),
    "moved": partial(A.grid, threat=fa.Moved(1, 5), points=3),
    "universal": A.universal(NET, (EIGHT, Y), LINF, epochs=1),
}


@pytest.mark.slow
def test_an_attack_gives_the_same() -> None:
    for name, attack in ATTACKS.items():
        out, expected = (attack(NET, x, Y) for x in (EIGHT, X))
        assert out.x_adv.dtype == torch.float32, name
        assert torch.equal(out.x_adv, expected.x_adv), name


def test_what_else_takes_images() -> None:
    for recipe in (fa.train.PGDTraining(LINF), fa.train.GaussianTraining(0.1), fa.train.Consistency(0.1)):
        assert torch.equal(*(recipe(NET, x, Y, ids=IDS, seed=0) for x in (EIGHT, X)))
    assert torch.equal(*(fa.train.craft(fa.train.TRADES(LINF), NET, x, Y, seed=0) for x in (EIGHT, X)))
    assert torch.equal(*(A.last_iterate(NET, x, Y, LINF, steps=2, step_size=0.1) for x in (EIGHT, X)))
    cut = torch.nn.Sequential(fa.models.Binarized(NET))
    assert A.masked_modules(cut, EIGHT) == A.masked_modules(cut, X)


@pytest.mark.parametrize("box", [(-1.0, 1.0), (0.0, 255.0)])
def test_another_box_and_other_integers_are_refused(box: tuple[float, float]) -> None:
    there = fa.Linf(0.1, box=box)
    for call in (A.pgd, partial(A.last_iterate, steps=1, step_size=0.1)):
        refuses(r"got uint8, which is served in \[0, 1\]", call, NET, EIGHT, Y, there)
    with pytest.raises(InputError, match=r"got uint8, which is served in \[0, 1\]"):
        fa.train.craft(fa.train.PGDTraining(there), NET, EIGHT, Y)
    for call in (partial(A.pgd, NET, y=Y, threat=LINF), partial(A.masked_modules, NET)):
        refuses(r"got torch.int16 .* x.float\(\) / 255", call, x=EIGHT.short())
