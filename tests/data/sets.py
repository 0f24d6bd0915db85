"""Toy sets and nets to construct from, and the four constructions with default budgets for the tests."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastadv.data import ConstructedSet, ImageSet, construct
from fastadv.threat import L2

CLASSES = 5
Construct = Callable[..., ConstructedSet]


def toy_base(count: int = 60, eight_bit: bool = True) -> ImageSet:
    """Noise with one bright pixel for each class."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % CLASSES
    x = torch.rand(count, 1, 8, 8, generator=generator) * 0.5
    x[torch.arange(count), 0, y] += 0.4
    return ImageSet((x * 255).round().to(torch.uint8) if eight_bit else x, y, tuple("abcde"), "toy")


def toy_model(seed: int = 2) -> nn.Module:
    """A linear-ReLU-linear net with weights from a private generator, in train mode."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def budgeted(function: Construct, **budget: Any) -> Construct:
    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> ConstructedSet:
        return function(*args, **(budget | options))

    return run


robust = budgeted(construct.robust, step_size=0.1)
non_robust = budgeted(construct.non_robust, step_size=0.1)
random_target = budgeted(construct.random_target, threat=L2(0.5), step_size=0.1)
fixed_shift = budgeted(construct.fixed_shift, threat=L2(0.5), step_size=0.1)
ALL = [robust, non_robust, random_target, fixed_shift]
