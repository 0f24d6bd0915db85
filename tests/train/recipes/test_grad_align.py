"""GradAlign where input gradients are known: of a linear model, and of squares."""

import torch
from torch import nn

import fastadv as fa
from fastadv.train import AWP, FGSMTraining, GradAlign
from tests.train.recipes import hand

THREAT = fa.Linf(hand.RADIUS)
PLAIN = FGSMTraining(THREAT, weight=0)


class Squares(nn.Module):
    """Two logits, 0 and Σ a x² / 2: the input gradient of the cross-entropy lies along a x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-1, 1, 64, dtype=torch.float64))

    def forward(self, x):
        logit = (self.a * x.flatten(1) ** 2).sum(1, keepdim=True) / 2
        return torch.cat([torch.zeros_like(logit), logit], 1)


def test_value_and_gradient_by_the_closed_form():
    x, y, ids = hand.batch()
    y = y % 2
    model = Squares()
    loss = GradAlign(PLAIN, 0.5)(model, x, y, ids=ids, seed=hand.SEED)
    noisy = THREAT.random_start(x, seed=hand.SEED, ids=ids).flatten(1)
    one, other = (model.a * x.flatten(1)).detach(), model.a * noisy
    cosine = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    wanted = PLAIN(model, x, y, ids=ids, seed=hand.SEED) + 0.5 * (1 - cosine).mean()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(hand.gradients(loss, model), hand.gradients(wanted, model))
    assert (1 - cosine).min() > 1e-6


def test_a_linear_model_is_aligned_and_a_constant_one_too():
    x, y, ids = hand.batch()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    for scale in (1.0, 0.0):
        with torch.no_grad():
            linear[1].weight.mul_(scale)
        wanted = PLAIN(linear, x, y % 2, ids=ids, seed=1)
        made = GradAlign(PLAIN)(linear, x, y % 2, ids=ids, seed=1)
        torch.testing.assert_close(made, wanted)
        assert all(gradient.isfinite().all() for gradient in hand.gradients(made, linear))


def test_gradients_are_taken_with_running_statistics():
    """Samples do not meet in them, they do not move, and a layer in eval mode stays there."""
    x, y, ids = hand.batch()
    model, alone = hand.warm_net(), hand.warm_net()
    for net in (model, alone):
        net[5].eval()
    found = GradAlign(PLAIN, 0.5)(model, x, y, ids=ids, seed=hand.SEED)
    wanted = PLAIN(alone, x, y, ids=ids, seed=hand.SEED)
    noisy = THREAT.random_start(x, seed=hand.SEED, ids=ids)
    ways = [fa.freeze(alone, fold=False).input_gradient(points, y)[2].flatten(1) for points in (x, noisy)]
    torch.testing.assert_close(found, wanted + 0.5 * (1 - torch.cosine_similarity(*ways)).mean())
    torch.testing.assert_close(model.state_dict(), alone.state_dict(), rtol=0, atol=0)
    assert [part.training for part in model.modules()] == [part.training for part in alone.modules()]


def test_it_is_a_loss_with_the_examples_of_its_recipe():
    x, y, ids = hand.batch()
    model = hand.warm_net()
    recipe = GradAlign(PLAIN)
    x_adv = fa.train.craft(recipe, model, x, y, ids=ids, seed=hand.SEED)
    assert torch.equal(x_adv, PLAIN.craft(model, x, y, ids=ids, seed=hand.SEED))
    AWP(recipe).step(hand.step_at(model))
