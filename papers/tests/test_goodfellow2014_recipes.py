"""The recipes of the paper by hand: noise, L1 decay, the closed form, hidden layers, and denied noise."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import fastadv as fa
from fastadv.errors import InputError
from papers.goodfellow2014 import recipes
from papers.goodfellow2014.models import Quadratic

RADIUS, SEED = 0.1, 3
THREAT = fa.Linf(RADIUS)


def batch(n=9):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)).double()
    return x, torch.arange(n) % 3, torch.arange(n) + 5


def warm_net():
    """In train mode, with statistics that differ from those of any batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )
        model(torch.rand(8, 1, 8, 8) ** 2)
        model[4].weight.data.mul_(4)
    return model.double().train()


def gradients(loss, model):
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))


def assert_same_step(recipe, wanted_at):
    """The recipe's loss, its gradient and the statistics it leaves are those computed by hand."""
    model, (x, y, ids) = warm_net(), batch()
    hand = copy.deepcopy(model)
    loss, wanted = recipe(model, x, y, ids=ids, seed=SEED), wanted_at(hand)
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients(loss, model), gradients(wanted, hand), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(dict(model.named_buffers()), dict(hand.named_buffers()))
    assert all(part.training and not part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("kind", ["sign", "uniform"])
def test_noise(kind):
    x, y, ids = batch()
    noise = 2 * fa.rng.uniform(64, fa.rng.derive(SEED, "input noise"), ids).double().view_as(x) - 1
    noise = noise.sign() if kind == "sign" else noise
    assert_same_step(
        recipes.InputNoise(THREAT, kind),
        lambda hand: cross_entropy(hand((x + RADIUS * noise).clamp(0, 1)), y),
    )


def test_l1_decay_of_the_first_layer_around_another_recipe():
    x, y, ids = batch()
    inner = fa.train.PGDTraining(THREAT, 2)
    assert_same_step(
        recipes.WeightDecayL1(0.01, inner),
        lambda hand: inner(hand, x, y, ids=ids, seed=SEED) + 0.01 * hand[0].weight.abs().sum(),
    )


@pytest.mark.parametrize(("loss", "weight"), [("ce", 1.0), ("bce", 0.3)])
def test_denied_noise(loss, weight):
    x, y, ids = batch()
    noise = fa.rng.normal(64, fa.rng.derive(SEED, "rubbish"), ids).double().view_as(x)

    def wanted(hand):
        clean = cross_entropy(hand(x), y)
        hand[1].eval()  # BatchNorm: noise is normalized as in tests, by the statistics after this batch
        logits = hand(noise)
        hand[1].train()
        if loss == "ce":
            return clean - weight * (logits.softmax(1).log() / 3).sum(1).mean()
        return clean - weight * (1 - logits.sigmoid()).log().sum(1).mean()

    assert_same_step(recipes.RubbishTraining(weight=weight, loss=loss), wanted)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_fgsm_on_what_enters_the_last_layer(weight):
    x, y, _ = batch()

    def wanted(hand):
        still = copy.deepcopy(hand).eval()
        h = still[:4](x).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(still[4](h), y), h)
        move = 0.2 * gradient.sign()
        if weight == 0:
            return cross_entropy(hand[4](hand[:4](x) + move), y)
        clean, other = hand[:4](torch.cat([x, x])).tensor_split(2)
        changed = cross_entropy(hand[4](other + move), y)
        return weight * cross_entropy(hand[4](clean), y) + (1 - weight) * changed

    assert_same_step(recipes.HiddenFGSM("4" if weight else 4, 0.2, weight), wanted)


WIDE = (-100.0, 100.0)


@pytest.mark.parametrize("kind", ["logistic", "softmax"])
@pytest.mark.parametrize(
    ("threat", "dual"),
    [(fa.Linf(0.1, box=WIDE), 1), (fa.L2(0.7, box=WIDE), 2), (fa.L1(1.5, box=WIDE), torch.inf)],
    ids=["linf", "l2", "l1"],
)
def test_the_closed_form_is_fgsm_training_and_the_worst_of_many_points(threat, dual, kind):
    x, y = batch(40)[0], batch(40)[1] % 2
    model = fa.models.create(kind, shape=(1, 8, 8), classes=2).double()
    for each in model.parameters():
        each.data.normal_(generator=torch.Generator().manual_seed(1))
    weight, bias = model.linear.weight, model.linear.bias
    w, b = (weight[0], bias[0]) if kind == "logistic" else (weight[1] - weight[0], bias[1] - bias[0])
    wanted = softplus(threat.radius * w.norm(dual) - (2 * y - 1) * (x.flatten(1) @ w + b)).mean()
    loss = recipes.RobustLogistic(threat)(model, x, y)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradients(loss, model), gradients(wanted, model))
    for seed in range(5):
        other = threat.project(threat.random_start(x, seed=seed), x)
        assert fa.train.Standard()(model, other, y) < loss
    made = recipes.RobustLogistic(threat, 0.2, label_smoothing=0.3)(model, x, y)
    torch.testing.assert_close(made, fa.train.FGSMTraining(threat, 0.2, label_smoothing=0.3)(model, x, y))
    boxed = fa.Linf(0.3)  # where the box cuts the ball it is an upper bound
    assert recipes.RobustLogistic(boxed)(model, x, y) > fa.train.FGSMTraining(boxed, weight=0.0)(model, x, y)


def test_the_closed_form_refuses_other_models():
    for model in (fa.models.create("softmax", shape=(1, 8, 8), classes=3), Quadratic((1, 8, 8), 2)):
        with pytest.raises(InputError, match="model: expected a linear one of two classes"):
            recipes.RobustLogistic(THREAT)(model.double(), *batch()[:2])
