"""Free adversarial training by hand: one backward pass for weights and perturbation, carried on."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.train import FreeTraining
from tests.train.recipes.hand import RADIUS, step_at, warm_net

RECIPE = FreeTraining(fa.Linf(RADIUS), replays=3, step_size=0.07, label_smoothing=0.2)


def by_hand(model, at, perturbation):
    """The perturbation after three replays, and their losses; the model descends in place."""
    losses = []
    for _ in range(3):
        x_adv = (at.x + perturbation).clamp(0, 1).requires_grad_()
        loss = cross_entropy(model(x_adv), at.y, label_smoothing=0.2)
        by_x, *by_weight = torch.autograd.grad(loss, [x_adv, *model.parameters()])
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), by_weight, strict=True):
                weight.sub_(0.1 * gradient)
        perturbation = (perturbation + 0.07 * by_x.sign()).clamp(-RADIUS, RADIUS)
        losses.append(loss.item())
    return perturbation, sum(losses) / 3


def test_weights_perturbation_and_loss_of_two_batches():
    model = warm_net()
    hand = copy.deepcopy(model)
    at = step_at(model)
    first, loss = by_hand(hand, at, torch.zeros_like(at.x))
    torch.testing.assert_close(RECIPE.step(at), torch.tensor(loss, dtype=torch.float64))
    torch.testing.assert_close(at.places["perturbation"], first)
    # a smaller batch, of other images, uses and changes the first rows
    smaller = step_at(model, 6, places=at.places)
    second, loss = by_hand(hand, smaller, first[:6])
    torch.testing.assert_close(RECIPE.step(smaller), torch.tensor(loss, dtype=torch.float64))
    torch.testing.assert_close(at.places["perturbation"], torch.cat([second, first[6:]]))
    torch.testing.assert_close(model.state_dict(), hand.state_dict())
    assert (second.abs() == RADIUS).any()
    assert ((smaller.x + second < 0) | (smaller.x + second > 1)).any()  # the box limits no perturbation
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("threat", [fa.L0(4), fa.L1(1.0), fa.L2(0.5)], ids=["l0", "l1", "l2"])
def test_other_norms_keep_the_perturbation_in_the_ball(threat):
    at = step_at(warm_net())
    for _ in range(3):
        FreeTraining(threat, 2).step(at)
        origin = torch.full_like(at.x, 0.5)
        carried = at.places["perturbation"]
        ball = type(threat)(threat.radius, box=(-9.0, 9.0))
        assert ball.contains(origin + carried, origin).all()
        assert (carried != 0).flatten(1).any(1).all()
