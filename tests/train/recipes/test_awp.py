"""AWP by hand: which gradient moves the weights, on which examples, and what is put back."""

import copy

import pytest
import torch

import fastadv as fa
from fastadv.train import AWP, TRADES, PGDTraining, Standard
from tests.train.recipes.hand import RADIUS, SEED, gradients, step_at, warm_net

INNER = PGDTraining(fa.Linf(RADIUS), 2)
RECIPES = [INNER, TRADES(fa.Linf(RADIUS), 2)]


def by_hand(model, at, inner, gamma):
    x_adv = inner.craft(model, at.x, at.y, ids=at.ids, seed=at.seed)
    probe = copy.deepcopy(model)
    at_w = gradients(inner.objective(probe, at.x, at.y, x_adv), probe)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for weight, gradient in zip(moved.parameters(), at_w, strict=True):
            if weight.ndim > 1:
                weight.add_(gamma * weight.norm() * gradient / gradient.norm())
    loss = inner.objective(moved, at.x, at.y, x_adv)
    by_weight = gradients(loss, moved)
    with torch.no_grad():
        for weight, gradient in zip(model.parameters(), by_weight, strict=True):
            weight.sub_(0.1 * gradient)
        for buffer, after in zip(model.buffers(), moved.buffers(), strict=True):
            buffer.copy_(after)
    return loss.detach()


@pytest.mark.parametrize("inner", RECIPES, ids=["pgd", "trades"])
def test_weights_loss_and_statistics_of_one_batch(inner):
    model = warm_net()
    hand, plain = copy.deepcopy(model), copy.deepcopy(model)
    at = step_at(model)
    loss = AWP(inner, gamma=0.05).step(at)
    torch.testing.assert_close(loss.detach(), by_hand(hand, at, inner, 0.05))
    torch.testing.assert_close(model.state_dict(), hand.state_dict())
    before = inner(plain, at.x, at.y, ids=at.ids, seed=SEED)
    assert loss > before + 0.01  # the perturbation raises the loss


def test_without_a_craft_of_its_own_a_recipe_runs_twice_with_the_same_noise():
    def recipe(model, x, y, *, ids, seed):
        return INNER(model, x, y, ids=ids, seed=seed)

    one, two = warm_net(), warm_net()
    AWP(Standard(), 0.01).step(step_at(one))
    AWP(lambda model, x, y, *, ids, seed: Standard()(model, x, y), 0.01).step(step_at(two))
    torch.testing.assert_close(one.state_dict(), two.state_dict())
    loss = AWP(recipe, 0.05).step(step_at(warm_net()))
    assert loss > INNER(warm_net(), *(getattr(step_at(warm_net()), name) for name in "xy"), seed=SEED)


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were():
    class Broken(Exception):
        pass

    def check(loss):
        raise Broken

    model = warm_net()
    before = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(Broken):
        AWP(INNER, 0.1).step(step_at(model, check=check))
    torch.testing.assert_close(dict(model.named_parameters()), before, rtol=0, atol=0)
