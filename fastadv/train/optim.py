"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fastadv._checks import check_number, check_share
from fastadv.errors import InputError

Schedule = Callable[[float], float]
"""The factor on the learning rate as a function of the share of training done, from 0 to 1."""

LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3}


def _cyclic(done: float) -> float:
    # 0.04 rather than 0, so that the first step is not wasted
    return 0.04 + 0.96 * done / 0.4 if done < 0.4 else (1 - done) / 0.6


def _one_cycle(done: float) -> float:
    # torch's OneCycleLR: up from 1/25 over three tenths, down to 1/250000, along cosines
    if done < 0.3:
        return _between(1 / 25, 1, done / 0.3)
    return _between(1, 1 / 25e4, (done - 0.3) / 0.7)


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Piecewise:
    """`factor` to the number of milestones passed; milestones are shares of training, in increasing order.

    By default a tenth at 1/2 and 3/4 (Rice, Wong, Kolter 2020: epochs 100 and 150 of 200). TRADES has (0.75,
    0.9), Pang et al. 2021 (100 / 110, 105 / 110).
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        shares = tuple(check_share("milestones", each) for each in self.milestones)
        if not shares or list(shares) != sorted(set(shares)):
            raise InputError(f"milestones: expected increasing shares of training, got {self.milestones}")
        check_share("factor", self.factor)
        object.__setattr__(self, "milestones", shares)

    def __call__(self, done: float) -> float:
        return float(self.factor ** sum(done >= milestone for milestone in self.milestones))


SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** int(3 * done),
    "piecewise": Piecewise(),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "cyclic": _cyclic,
    "one_cycle": _one_cycle,
}


@dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer's name and numbers, checked; learning_rate is that of LEARNING_RATES unless given.

    warm_up: epochs, None for none. clip_norm: of the gradients of all weights together. max_norm: of the
    incoming weights of each unit.
    """

    optimizer: str
    learning_rate: float | None
    momentum: float
    weight_decay: float
    warm_up: float | None = None
    clip_norm: float | None = None
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in LEARNING_RATES:
            raise InputError(f"optimizer: expected one of {sorted(LEARNING_RATES)}, got {self.optimizer!r}")
        rate = LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate
        if check_number("learning_rate", rate) <= 0:
            raise InputError(f"learning_rate: expected a number > 0, got {rate!r}")
        if check_number("momentum", self.momentum, least=0.0) >= 1:
            raise InputError(f"momentum: expected a number from 0 to below 1, got {self.momentum!r}")
        for name in ("clip_norm", "max_norm"):
            value = getattr(self, name)
            if value is not None and check_number(name, value) <= 0:
                raise InputError(f"{name}: expected a number > 0, got {value!r}; leave it out")
        if self.warm_up is not None:
            check_number("warm_up", self.warm_up, 0)
        # stored as floats, so that 1 and 1.0 are the same run
        object.__setattr__(self, "learning_rate", float(rate))
        object.__setattr__(self, "momentum", float(self.momentum))
        for name in ("warm_up", "clip_norm", "max_norm"):
            value = getattr(self, name)
            object.__setattr__(self, name, float(value) if value else None)
        object.__setattr__(self, "weight_decay", check_number("weight_decay", self.weight_decay, least=0.0))


def make_optimizer(model: nn.Module, options: OptimizerOptions) -> Optimizer:
    """SGD with momentum or Adam over the parameters that require a gradient; InputError if none does.

    With `max_norm`, each of its steps ends with the weights inside that bound, whoever takes it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            "model: expected parameters that require a gradient, got none; call model.requires_grad_(True)"
        )
    shared: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    if options.optimizer == "sgd":
        optimizer: Optimizer = SGD(parameters, momentum=options.momentum, **shared)
    else:
        optimizer = Adam(parameters, betas=(options.momentum, 0.999), **shared)
    if options.max_norm is not None:
        bounded, most = [weight for weight in parameters if weight.ndim > 1], options.max_norm
        optimizer.register_step_post_hook(lambda *_: _bound(bounded, most))
    return optimizer


def _bound(weights: Sequence[Tensor], most: float) -> None:
    """Shorten what goes into a unit, the rows along the first dimension, to an L2 norm of `most`."""
    with torch.no_grad():
        for weight in weights:
            weight.renorm_(2, 0, most)


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


def make_schedule(optimizer: Optimizer, factor: Schedule, total_steps: int, warm_up: float = 0.0) -> LambdaLR:
    """The learning rate of each step; a closed form, so that it does not drift and resumes exactly.

    Over the first `warm_up` steps it rises linearly to where the schedule then is.
    """

    def rate(step: int) -> float:
        risen = min((step + 1) / warm_up, 1.0) if warm_up else 1.0
        return risen * factor(min(step / total_steps, 1.0))

    return LambdaLR(optimizer, rate)
