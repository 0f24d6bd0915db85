"""NuAT by hand: the weight that rises, the step in every other batch, and the norm over the batch."""

import copy

import pytest
import torch
from torch.linalg import matrix_norm
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.train import NuAT
from fastadv.train.recipes.nuat import nuclear_direction
from tests.train.recipes import hand

RECIPE = NuAT(fa.Linf(hand.RADIUS), weight=3.0, rise=4, label_smoothing=0.2)


def crafted(model, x, y, ids, weight):
    """One step from half a radius of noise on CE + weight · norm, in the sum over the batch."""
    noise = rng.uniform(64, rng.derive(hand.SEED, "nuat"), ids).view_as(x) >= 0.5
    start = (x + hand.RADIUS / 2 * (2 * noise.double() - 1)).clamp(0, 1)
    still = hand.evaluated(model)

    def loss(logits):
        apart = still(x).detach() - logits
        return cross_entropy(logits, y, reduction="sum") + weight * matrix_norm(apart, "nuc")

    return hand.ascend(model, x, loss, start, 1, hand.RADIUS)


@pytest.mark.parametrize(
    ("epoch", "index", "weight", "also"),
    [(1, 1, 0.0, False), (3, 0, 1.5, False), (3, 1, 1.5, True), (9, 3, 3.0, True)],
    ids=["first", "even", "odd", "risen"],
)
def test_a_step(epoch, index, weight, also):
    model = hand.warm_net()
    by_hand = copy.deepcopy(model)
    at = hand.step_at(model, epoch=epoch, index=index)
    x_adv = crafted(by_hand, at.x, at.y, at.ids, weight if also else 0.0)
    adversarial, clean = by_hand(x_adv), by_hand(at.x)
    loss = cross_entropy(clean, at.y, label_smoothing=0.2)
    loss = loss + weight * matrix_norm(clean - adversarial, "nuc") / len(at.x)
    gradients = hand.gradients(loss, by_hand)
    with torch.no_grad():
        for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
            parameter.sub_(0.1 * gradient)
    torch.testing.assert_close(RECIPE.step(at)[0], loss)
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict())
    assert not at.state


def test_the_norm_changes_where_the_step_leads():
    x, y, ids = hand.batch()
    model = hand.warm_net()
    alone = crafted(model, x, y, ids, 0.0)
    assert not torch.equal(crafted(model, x, y, ids, 3.0), alone)
    torch.testing.assert_close(RECIPE.craft(model, x, y, ids=ids, seed=hand.SEED), alone)


def test_as_a_loss_it_has_the_whole_weight():
    x, y, ids = hand.batch()
    model = hand.warm_net()
    by_hand = copy.deepcopy(model)
    x_adv = crafted(by_hand, x, y, ids, 0.0)
    adversarial, clean = by_hand(x_adv), by_hand(x)
    norm = matrix_norm(clean - adversarial, "nuc")
    wanted = cross_entropy(clean, y, label_smoothing=0.2) + 3 * norm / len(x)
    hand.assert_same_step(RECIPE, model, by_hand, wanted)


def test_the_direction_knows_no_singular_value_of_zero():
    one = torch.tensor([3.0, 4.0], dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(nuclear_direction(one), one / 5)
    assert not nuclear_direction(torch.zeros(4, 3)).any()
    full = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = full.clone().requires_grad_()
    torch.testing.assert_close(
        nuclear_direction(full), torch.autograd.grad(matrix_norm(leaf, "nuc"), leaf)[0]
    )
