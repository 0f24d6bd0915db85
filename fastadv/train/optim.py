"""Optimisers and learning-rate schedules, by name, from torch."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fastadv.errors import InputError

Schedule = Callable[[float], float]
"""The factor on the learning rate as a function of the share of training done, from 0 to 1."""

LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3}


def _cyclic(done: float) -> float:
    # 0.04 rather than 0 so that the first step is not wasted
    return 0.04 + 0.96 * done / 0.4 if done < 0.4 else (1 - done) / 0.6


SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** int(3 * done),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "cyclic": _cyclic,
}


def make_optimizer(
    model: nn.Module, name: str, learning_rate: float, momentum: float, weight_decay: float
) -> Optimizer:
    """SGD with momentum or Adam over the parameters that require a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            "model: expected parameters that require a gradient, got none; call model.requires_grad_(True)"
        )
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "sgd":
        return SGD(parameters, momentum=momentum, **options)
    if name == "adam":
        return Adam(parameters, betas=(momentum, 0.999), **options)
    raise InputError(f"optimizer: expected one of {sorted(LEARNING_RATES)}, got {name!r}")


def make_schedule(optimizer: Optimizer, schedule: str | Schedule, total_steps: int) -> LambdaLR:
    """The learning rate of each step; a closed form, so that it does not drift and resumes exactly."""
    factor = SCHEDULES.get(schedule) if isinstance(schedule, str) else schedule
    if factor is None:
        raise InputError(
            f"schedule: expected one of {sorted(SCHEDULES)} or a function of the share done, got {schedule!r}"
        )
    return LambdaLR(optimizer, lambda step: factor(min(step / total_steps, 1.0)))
