"""Adversarial training of a linear model in closed form: the formula, FGSM training, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import FGSMTraining, RobustLogistic, Standard
from papers.goodfellow2014.models import Quadratic

WIDE = (-100.0, 100.0)
THREATS = {
    "linf": (fa.Linf(0.1, box=WIDE), 1),
    "l2": (fa.L2(0.7, box=WIDE), 2),
    "l1": (fa.L1(1.5, box=WIDE), torch.inf),
}


def batch(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, 5, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(2, (n,), generator=generator)


def model_of(kind):
    if kind == "sequential":
        model = nn.Sequential(nn.Flatten(), nn.Linear(30, 2))
    else:
        model = fa.models.create(kind, shape=(2, 5, 3), classes=2)
    model = model.double()
    for weight in model.parameters():
        weight.data.normal_()
    return model


KINDS = ("logistic", "softmax", "sequential")


def line(model):
    """w and b of the difference of the two logits."""
    layer = model[1] if isinstance(model, nn.Sequential) else model.linear
    if layer.out_features == 1:
        return layer.weight[0], layer.bias[0]
    return layer.weight[1] - layer.weight[0], layer.bias[1] - layer.bias[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", THREATS)
def test_the_formula_its_gradient_and_the_worst_of_many_points(name, kind):
    (threat, dual), (x, y), model = THREATS[name], batch(), model_of(kind)
    w, b = line(model)
    sign = 2 * y - 1
    wanted = softplus(threat.radius * w.norm(dual) - sign * (x.flatten(1) @ w + b)).mean()
    loss = RobustLogistic(threat)(model, x, y)
    torch.testing.assert_close(loss, wanted)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters, retain_graph=True), torch.autograd.grad(wanted, parameters)
    )
    for seed in range(5):
        other = threat.project(threat.random_start(x, seed=seed), x)
        assert Standard()(model, other, y) < loss
    clean = Standard()(model, x, y)
    torch.testing.assert_close(RobustLogistic(threat, weight=0.3)(model, x, y), 0.3 * clean + 0.7 * loss)
    torch.testing.assert_close(RobustLogistic(threat, weight=1.0)(model, x, y), clean)


@pytest.mark.parametrize("name", THREATS)
def test_it_is_fgsm_training_and_label_smoothing_is_that_of_the_loss_at_the_worst_point(name):
    (x, y), model, threat = batch(), model_of("logistic"), THREATS[name][0]
    made = RobustLogistic(threat, 0.2, label_smoothing=0.3)(model, x, y)
    torch.testing.assert_close(made, FGSMTraining(threat, 0.2, label_smoothing=0.3)(model, x, y))
    assert made != RobustLogistic(threat, 0.2)(model, x, y)


def test_where_the_box_cuts_the_ball_it_is_an_upper_bound():
    (x, y), model, threat = batch(), model_of("logistic"), fa.Linf(0.3)
    assert RobustLogistic(threat)(model, x, y) > FGSMTraining(threat, weight=0.0)(model, x, y)


class Scaled(fa.models.LogisticRegression):
    """Linear, but not as its parent is."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "model",
    [
        fa.models.create("softmax", shape=(2, 5, 3), classes=3),
        Quadratic((2, 5, 3), 2),
        fa.models.Normalized(fa.models.create("logistic", shape=(2, 5, 3)), 0.5, 0.5),
        nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(30, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(30, 2), nn.Tanh()),
        nn.Sequential(),
        Scaled((2, 5, 3)),
    ],
    ids=["three", "quadratic", "normalized", "relu", "tanh", "empty", "subclass"],
)
def test_other_models_are_refused(model):
    x, y = batch()
    with pytest.raises(InputError, match="model: expected a linear one of two classes"):
        RobustLogistic(fa.Linf(0.1))(model, x.float(), y)
