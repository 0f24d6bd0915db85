"""FGSM on what enters a hidden layer: by hand, without a trace, and the trap of unbounded units."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import FGSMTraining, HiddenFGSM
from papers.goodfellow2014.models import Maxout
from tests.train.recipes.hand import SEED, assert_same_step, batch, evaluated, warm_net
from tests.zoo.net import module


def by_hand(model: nn.Module, hand: nn.Module, x: Tensor, y: Tensor, radius: float, weight: float) -> Tensor:
    """The loss where the input of the last layer, number 5, is perturbed."""
    still = evaluated(model)
    h = still[:5](x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(still[5](h), y), h)
    move = radius * gradient.sign()
    if weight == 0:
        return cross_entropy(hand[5](hand[:5](x) + move), y)
    clean, other = hand[:5](torch.cat([x, x])).tensor_split(2)
    adversarial = cross_entropy(hand[5](other + move), y)
    return weight * cross_entropy(hand[5](clean), y) + (1 - weight) * adversarial


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_by_hand(weight: float) -> None:
    x, y, _ = batch()
    model = warm_net()
    hand = copy.deepcopy(model)
    wanted = by_hand(model, hand, x, y, 0.2, weight)
    assert_same_step(HiddenFGSM("5" if weight else 5, 0.2, weight), model, hand, wanted)
    assert abs(wanted - cross_entropy(evaluated(model)(x), y)) > 1e-3


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_at_the_input_it_is_fgsm_training_without_a_box(loss: str) -> None:
    x, y, ids = batch()
    ball = fa.Linf(0.1, box=(-torch.inf, torch.inf))
    made = [
        recipe(warm_net(), x, y, ids=ids, seed=SEED)
        for recipe in (HiddenFGSM("0", 0.1, 0.4, 0.1, loss), FGSMTraining(ball, 0.4, 0.1, loss))
    ]
    torch.testing.assert_close(*made)


def test_maxout_units_are_what_enters_the_next_layer() -> None:
    x, y, ids = batch()
    model = Maxout((1, 8, 8), 3, units=7, pieces=2, input_dropout=0.0)
    model = model.double().eval()
    for weight in model.parameters():
        weight.data.normal_()
    made = HiddenFGSM("hidden.1", 0.1, weight=0.0)(model, x, y, ids=ids)

    def rest(h: Tensor) -> Tensor:
        second = model.hidden[1](h).unflatten(1, (2, 7)).amax(1)
        return model.linear(second)

    h = model.hidden[0](x.flatten(1)).unflatten(1, (2, 7)).amax(1).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(rest(h), y), h)
    torch.testing.assert_close(made, cross_entropy(rest(h + 0.1 * gradient.sign()), y))


def test_no_hook_stays_in_the_model() -> None:
    x, y, ids = batch()
    model = warm_net()
    HiddenFGSM("5", 0.1)(model, x, y, ids=ids)
    assert not any(part._forward_pre_hooks for part in model.modules())
    with pytest.raises(RuntimeError, match="channels"):
        HiddenFGSM("5", 0.1)(model, x.expand(-1, 2, 8, 8), y)
    assert not any(part._forward_pre_hooks for part in model.modules())


# a layer that runs twice, one that never does, and one that takes no tensor
TWICE = module(
    lambda self, x: self.last((self.shared(self.shared(x.flatten(1))), 1.0)),
    shared=nn.Linear(64, 64),
    idle=nn.Linear(3, 3),
    last=module(lambda self, given: given[0][:, :3] * given[1]),
)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("shared", "expected a layer that runs once in forward, got 'shared', which ran 2 times"),
        ("idle", "expected a layer that runs once in forward, got 'idle', which ran 0 times"),
        ("last", "expected a layer that takes a tensor, got 'last'"),
        ("first", "expected the name of a layer of the model, got 'first'"),
    ],
)
def test_layers_that_cannot_be_perturbed(name: str, wanted: str) -> None:
    x, y, _ = batch()
    with pytest.raises(InputError, match=f"module: {wanted}"):
        HiddenFGSM(name, 0.1)(TWICE.double(), x, y)
