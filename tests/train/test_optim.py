"""Schedules: the learning rate of each step, against their closed forms."""

import math

import pytest
import torch

from fastadv.train.optim import SCHEDULES, OptimizerOptions, find_schedule, make_optimizer, make_schedule


def rates(schedule, steps):
    optimizer = make_optimizer(torch.nn.Linear(2, 2), OptimizerOptions("sgd", 0.1, 0.9, 0.0))
    scheduler = make_schedule(optimizer, find_schedule(schedule), steps)
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
        (lambda done: 1 - done, [0.1 * (1 - k / 6) for k in range(6)]),
    ],
)
def test_closed_forms(schedule, wanted):
    assert rates(schedule, 6) == pytest.approx(wanted)


def test_cyclic_rises_to_two_fifths_and_falls_to_nothing():
    values = rates("cyclic", 100)
    assert max(values) == values[40] == pytest.approx(0.1)
    assert 0 < values[0] < 0.01
    assert 0 < values[-1] < 0.01
    assert values[:41] == sorted(values[:41])
    assert values[40:] == sorted(values[40:], reverse=True)
    assert SCHEDULES["cyclic"](1.0) == 0
