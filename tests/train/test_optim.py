"""Schedules: the learning rate of each step, against their closed forms."""

import math

import pytest
import torch

import fastadv as fa
from fastadv.train import Optimization, Piecewise, Standard, fit
from fastadv.train.optim import find_rate, make_optimizer, make_schedule
from fastadv.train.schedules import SCHEDULES

from .nets import images, net


def rates(schedule, steps, warm_up=0.0):
    options = Optimization(schedule=schedule, warm_up=warm_up / steps)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), "sgd", 0.1, options)
    scheduler = make_schedule(optimizer, options, 1, steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.1] * 6),
        ("step", [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("cosine", [0.05 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]),
        ("piecewise", [0.1, 0.1, 0.1, 0.01, 0.01, 0.001]),
        (Piecewise((1 / 6, 5 / 6), 0.5), [0.1, 0.05, 0.05, 0.05, 0.05, 0.025]),
        (lambda done: 1 - done, [0.1 * (1 - k / 6) for k in range(6)]),
    ],
)
def test_closed_forms(schedule, wanted):
    assert rates(schedule, 6) == pytest.approx(wanted)


def test_cyclic_rises_to_two_fifths_and_falls_to_nothing():
    values = rates("cyclic", 100)
    rising = [0.1 * (0.04 + 0.96 * k / 40) for k in range(40)]
    assert values == pytest.approx([*rising, *(0.1 * (100 - k) / 60 for k in range(40, 100))])
    assert SCHEDULES["cyclic"](1.0) == 0


@pytest.mark.parametrize(
    ("schedule", "epochs", "drops"),
    [(Piecewise((100 / 110, 105 / 110)), 110, [100, 105]), ("piecewise", 200, [100, 150])],
    ids=["Pang et al. 2021", "Rice et al. 2020"],
)
def test_milestones_are_met_to_the_step(schedule, epochs, drops):
    values = rates(schedule, epochs * 11)
    assert [k for k in range(1, epochs * 11) if values[k] < values[k - 1]] == [11 * epoch for epoch in drops]


@pytest.mark.slow
def test_one_cycle_is_that_of_torch():
    """Torch ends its cycle one step earlier, which over 2,000 steps is nothing."""
    steps = 2000
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, cycle_momentum=False)
    wanted = []
    for _ in range(steps):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = rates("one_cycle", steps)
    assert max(abs(a - b) for a, b in zip(ours, wanted, strict=True)) < 0.1 * 4 / steps
    assert ours[0] == pytest.approx(0.1 / 25)
    assert max(ours) == ours[600] == pytest.approx(0.1)
    assert SCHEDULES["one_cycle"](1.0) == pytest.approx(1 / 25e4)


def test_warm_up_rises_linearly_to_the_schedule():
    values, cosine = rates("cosine", 40, warm_up=10), rates("cosine", 40)
    for k in range(40):
        assert values[k] == pytest.approx(cosine[k] * min((k + 1) / 10, 1))
    options = {"epochs": 3, "batch_size": 10, "learning_rate": 0.3}
    options |= {"optimization": Optimization(warm_up=1.5, schedule="constant")}
    (first, *_, last) = fit(net(), images(), Standard(), **options)
    assert first.learning_rate == pytest.approx(0.3 * 5 / 7.5)
    assert last.learning_rate == 0.3


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_clipping_shortens_the_gradient_of_all_weights_together(clip_norm, optimizer):
    torch.manual_seed(0)  # Adam's first step turns a gradient near 0 into a sign, which rounding decides
    data, model = images(8), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    twin = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    twin.load_state_dict(model.state_dict())
    options = Optimization(weight_decay=0.01, clip_norm=clip_norm)
    fit(model, data, Standard(), epochs=1, learning_rate=0.1, optimizer=optimizer, optimization=options)
    torch.nn.functional.cross_entropy(twin(data.x), data.y).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in twin.parameters()]).norm()
    for parameter in twin.parameters():
        parameter.grad *= min(1.0, clip_norm / norm)
    make_optimizer(twin, optimizer, 0.1, options).step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_momentum_and_weight_decay_are_those_asked_for():
    options = Optimization(momentum=0.7, weight_decay=0.01)
    sgd, adam = (make_optimizer(net(), name, find_rate(name, None), options) for name in ("sgd", "adam"))
    assert (sgd.defaults["momentum"], sgd.defaults["lr"]) == (0.7, 0.05)
    assert (adam.defaults["betas"], adam.defaults["lr"]) == ((0.7, 0.999), 1e-3)
    assert [one.defaults["weight_decay"] for one in (sgd, adam)] == [0.01] * 2
    assert not adam.defaults.get("decoupled_weight_decay")  # which torch has since 2.7


def test_gradients_that_frozen_weights_hold_do_not_count_and_stay():
    models = net(), net()
    for model in models:
        model[0].requires_grad_(False)
    models[0][0].weight.grad = torch.full_like(models[0][0].weight, 100.0)
    for model in models:
        fit(model, images(), Standard(), epochs=1, optimization=Optimization(clip_norm=0.1))
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    assert (models[0][0].weight.grad == 100).all()


def test_a_recipe_with_a_step_of_its_own_is_clipped_too():
    recipe = fa.train.FreeTraining(fa.Linf(0.1), 2)
    nets = [net(), net()]
    for model, clip_norm in zip(nets, (None, 1e-9), strict=True):
        options = Optimization(clip_norm=clip_norm, weight_decay=0.0)
        fit(model, images(), recipe, epochs=1, optimization=options)
    start = net()[5].weight
    assert (nets[0][5].weight - start).abs().max() > 1e-3
    assert (nets[1][5].weight - start).abs().max() < 1e-6
