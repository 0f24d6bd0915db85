"""Free adversarial training by hand: one backward pass for weights and perturbation, carried on."""

import copy

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
