"""FGSM-PGI by hand: the step, what is kept for each sample, and the loss that ties both points."""

import copy
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.train import PriorGuidedTraining
from fastadv.train._samples import SampleRows
from tests.train.recipes.hand import RADIUS, SEED, gradients, step_at, warm_net

RECIPE = PriorGuidedTraining(
    fa.Linf(RADIUS), step_size=0.06, momentum=0.5, consistency=4.0, label_smoothing=0.2
)
loss_of = partial(cross_entropy, label_smoothing=0.2)


def inside(x, away):
    return (x + away.clamp(-RADIUS, RADIUS)).clamp(0, 1)


def by_hand(model, at, start, summed):
    """The perturbation kept, the sum of gradients and the loss; the model descends in place."""
    leaf = start.clone().requires_grad_()
    before = model(leaf)
    (gradient,) = torch.autograd.grad(loss_of(before, at.y), leaf, retain_graph=True)
    after = model(inside(at.x, start + 0.06 * gradient.sign() - at.x))
    loss = loss_of(after, at.y) + 4 * ((after - before) ** 2).mean()
    by_weight = gradients(loss, model)
    with torch.no_grad():
        for weight, each in zip(model.parameters(), by_weight, strict=True):
            weight.sub_(0.1 * each)
    summed = 0.5 * summed + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
    return inside(at.x, start + 0.06 * summed.sign() - at.x) - at.x, summed, loss.detach()


def test_two_epochs():
    model = warm_net()
    hand = copy.deepcopy(model)
    at = step_at(model)
    draws = rng.uniform(64, rng.derive(SEED, "prior"), at.ids).double().view_as(at.x)
    kept, summed, loss = by_hand(hand, at, inside(at.x, RADIUS * (2 * draws - 1).sign()), 0)
    torch.testing.assert_close(RECIPE.step(at)[0], loss)
    torch.testing.assert_close(at.samples.rows["perturbation"][at.ids].double(), kept, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(at.samples.rows["momentum"][at.ids].double(), summed, rtol=2e-3, atol=1e-5)
    untouched = [i for i in range(at.size) if i not in at.ids]
    assert not at.samples.rows["perturbation"][untouched].any()
    later = step_at(model, 6, epoch=2, samples=at.samples, seed=SEED + 1)
    start = inside(later.x, kept[:6].half().double())
    kept, summed, loss = by_hand(hand, later, start, summed[:6].half().double())
    torch.testing.assert_close(RECIPE.step(later)[0], loss)
    torch.testing.assert_close(
        later.samples.rows["perturbation"][later.ids].double(), kept, rtol=2e-3, atol=1e-6
    )
    torch.testing.assert_close(model.state_dict(), hand.state_dict(), rtol=1e-5, atol=1e-6)
    assert kept.abs().max() <= RADIUS + 1e-12


def test_a_cycle_begins_anew():
    recipe = PriorGuidedTraining(fa.Linf(RADIUS), reset=2)
    starts, samples = [], SampleRows(50)
    for epoch in (1, 2, 3):
        at = step_at(warm_net(), epoch=epoch, samples=samples, seed=epoch)
        starts.append(recipe._prior(at, at.samples)[0] - at.x)
        recipe.step(at)
    free = (at.x > RADIUS) & (at.x < 1 - RADIUS)
    for start in (starts[0], starts[2]):
        torch.testing.assert_close(start[free].abs(), torch.full_like(start[free], RADIUS))
    assert ((starts[0] - starts[2])[free].abs() > RADIUS).double().mean() == pytest.approx(0.5, abs=0.1)
    kept = samples.rows["perturbation"]
    assert starts[1].abs().max() <= RADIUS
    assert kept.dtype == torch.float16
