"""Steps under torch.compile that attack: a graph break at each entry, and the same numbers."""

import copy
import inspect
import pickle

import pytest
import torch

import fastadv as fa

from .nets import convnet, images

THREAT, NET = fa.Linf(0.1), convnet()
FROZEN = fa.freeze(convnet())
RECIPE = fa.train.TRADES(THREAT, steps=2)


def frozen(x, y):
    """By each question of a classifier, and by one that is frozen inside."""
    rows = FROZEN.jacobian(x, torch.eye(5).expand(len(x), 5, 5))[1].sum(1)
    return rows + FROZEN.input_gradient(x, y)[2] + fa.freeze(NET).input_gradient(x, y)[2] + FROZEN(x).sum()


def attacks(x, y):
    found = fa.attacks.pgd(NET, x, y, THREAT, steps=2).x_adv
    last = fa.attacks.last_iterate(NET, x, y, THREAT, steps=2, step_size=0.1)
    compiled = fa.attacks.bim(torch.compile(NET, backend="eager"), x, y, THREAT).x_adv
    return found + last + fa.train.craft(RECIPE, NET, x, y, seed=0) + compiled


@pytest.mark.slow
@pytest.mark.parametrize("take", [frozen, attacks])
def test_a_compiled_step_attacks_to_the_bit(take):
    x, y = images()
    before = copy.deepcopy(NET.state_dict())

    def step(x, y):
        return take(x * 0.9, y) * 2

    torch._dynamo.reset()
    found = torch.compile(step, backend="aot_eager")(x, y)
    NET.load_state_dict(before)
    assert torch.equal(found, step(x, y))
    NET.load_state_dict(before)


def test_attacks_are_what_they_are_without():
    assert pickle.loads(pickle.dumps(fa.attacks.pgd)) is fa.attacks.pgd
    assert [*inspect.signature(fa.attacks.pgd).parameters][:4] == ["model", "x", "y", "threat"]
    assert "eot" in inspect.signature(fa.attacks.pgd).parameters
    assert fa.attacks.pgd.__name__ == "pgd"
