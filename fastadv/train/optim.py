"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fastadv._checks import check_number
from fastadv.errors import InputError

Schedule = Callable[[float], float]
"""The factor on the learning rate as a function of the share of training done, from 0 to 1."""

LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3}


def _cyclic(done: float) -> float:
    # 0.04 rather than 0, so that the first step is not wasted
    return 0.04 + 0.96 * done / 0.4 if done < 0.4 else (1 - done) / 0.6


SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** int(3 * done),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "cyclic": _cyclic,
}


@dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer's name and numbers, checked; learning_rate is that of LEARNING_RATES unless given."""

    optimizer: str
    learning_rate: float | None
    momentum: float
    weight_decay: float

    def __post_init__(self) -> None:
        if self.optimizer not in LEARNING_RATES:
            raise InputError(f"optimizer: expected one of {sorted(LEARNING_RATES)}, got {self.optimizer!r}")
        rate = LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate
        if check_number("learning_rate", rate) <= 0:
            raise InputError(f"learning_rate: expected a number > 0, got {rate!r}")
        if check_number("momentum", self.momentum, least=0.0) >= 1:
            raise InputError(f"momentum: expected a number from 0 to below 1, got {self.momentum!r}")
        # stored as floats, so that 1 and 1.0 are the same run
        object.__setattr__(self, "learning_rate", float(rate))
        object.__setattr__(self, "momentum", float(self.momentum))
        object.__setattr__(self, "weight_decay", check_number("weight_decay", self.weight_decay, least=0.0))


def make_optimizer(model: nn.Module, options: OptimizerOptions) -> Optimizer:
    """SGD with momentum or Adam over the parameters that require a gradient; InputError if none does."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            "model: expected parameters that require a gradient, got none; call model.requires_grad_(True)"
        )
    shared: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    if options.optimizer == "sgd":
        return SGD(parameters, momentum=options.momentum, **shared)
    return Adam(parameters, betas=(options.momentum, 0.999), **shared)


def find_schedule(schedule: str | Schedule) -> Schedule:
    """The schedule of that name, or the function as given. InputError unless its factors are finite."""
    factor = SCHEDULES.get(schedule) if isinstance(schedule, str) else schedule
    if not callable(factor):
        raise InputError(
            f"schedule: expected one of {sorted(SCHEDULES)} or a function of the share of training done, "
            f"got {schedule!r}"
        )
    for done in (0.0, 0.5, 1.0):
        check_number(f"schedule({done})", factor(done))
    return factor


def make_schedule(optimizer: Optimizer, factor: Schedule, total_steps: int) -> LambdaLR:
    """The learning rate of each step; a closed form, so that it does not drift and resumes exactly."""
    return LambdaLR(optimizer, lambda step: factor(min(step / total_steps, 1.0)))
