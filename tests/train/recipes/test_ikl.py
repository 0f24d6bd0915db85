"""IKL by hand: pairs of classes, weights of the last epoch, and what is held fixed."""

import copy

import torch
from torch.nn.functional import cross_entropy, one_hot

import fastadv as fa
from fastadv.train import IKL
from tests.train.recipes import hand
from tests.train.recipes.test_trades import by_hand

RECIPE = IKL(fa.Linf(hand.RADIUS), hand.STEPS, hand.STEP_SIZE, beta=5.0, soft=2.0, temperature=3.0, power=0.5)


def loss_of(model, x, x_adv, y, means):
    """The loss by its definition, over all pairs; and softmax of the clean logits."""
    z_adv, z = model(x_adv), model(x)
    pairs = (z[:, :, None] - z[:, None, :]) - (z_adv[:, :, None] - z_adv[:, None, :])
    w = means[y] ** 0.5
    both = w[:, :, None] * w[:, None, :]
    moved = 0.25 * (both * pairs**2).sum() / both.sum()
    told = (z / 3).softmax(1).detach()
    spread = -(told * (z_adv / 3).log_softmax(1)).sum(1).mean()
    return cross_entropy(z, y) + 5 * moved + 2 * spread, told


def descend(model, loss):
    gradients = hand.gradients(loss, model)
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.sub_(0.1 * gradient)


def test_two_epochs():
    model = hand.warm_net()
    twin, state = copy.deepcopy(model), {}
    means = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    sums = torch.zeros_like(means)
    for epoch, index in ((1, 0), (1, 1), (2, 0), (2, 1)):
        if (epoch, index) == (2, 0):
            means, sums = sums / sums.sum(1, keepdim=True), torch.zeros_like(sums)
        at = hand.step_at(model, 9 - index, epoch=epoch, index=index, state=state)
        x_adv = by_hand(copy.deepcopy(twin), at.x, at.y, at.ids)[0]
        loss, told = loss_of(twin, at.x, x_adv, at.y, means)
        descend(twin, loss)
        sums = sums + one_hot(at.y, 3).double().T @ told
        torch.testing.assert_close(RECIPE.step(at)[0], loss)
        torch.testing.assert_close(model.state_dict(), twin.state_dict())
        torch.testing.assert_close(state["means"], means)
        torch.testing.assert_close(state["sums"], sums)
    assert (means - 1 / 3).abs().max() > 0.01


def test_a_class_without_images_keeps_its_weights():
    state = {}
    one = hand.step_at(hand.warm_net(), state=state)
    one.y[:] = 1
    RECIPE.step(one)
    RECIPE.step(hand.step_at(hand.warm_net(), epoch=2, state=state))
    torch.testing.assert_close(state["means"][[0, 2]], torch.full((2, 3), 1 / 3, dtype=torch.float64))
    assert (state["means"][1] - 1 / 3).abs().max() > 0.01
    kept = state["means"][[0, 2]] * torch.tensor([0.9, 1, 1.1])  # not those that prefer no class
    state["means"][[0, 2]], state["sums"] = kept, torch.zeros_like(state["sums"])
    RECIPE.step(hand.step_at(hand.warm_net(), epoch=3, state=state))
    torch.testing.assert_close(state["means"][[0, 2]], kept)


def test_as_a_loss_all_classes_weigh_the_same():
    x, y, ids = hand.batch()
    model = hand.warm_net()
    twin = copy.deepcopy(model)
    x_adv = by_hand(copy.deepcopy(twin), x, y, ids)[0]
    even = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(
        RECIPE(model, x, y, ids=ids, seed=hand.SEED), loss_of(twin, x, x_adv, y, even)[0]
    )
