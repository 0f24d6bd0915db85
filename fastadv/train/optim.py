"""Optimizers and learning-rate schedules by name, and how the weights move."""

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
from fastadv.train.ramp import Ramp, Trained

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


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the weights move, beside the optimizer and its learning rate.

    - momentum: of SGD, from 0 to below 1; the first beta of Adam.
    - weight_decay: of the optimizer, 0 or more.
    - schedule: "constant", "step" (a tenth after each third), "piecewise" (a tenth at 1/2 and at 3/4; others
      with `Piecewise`), "cosine", "cyclic" (linearly up to two fifths, then down to 0), "one_cycle" (up over
      three tenths from 1/25, then down to 0, along cosines, as torch's OneCycleLR; momentum stays), or a
      function of the share of training done that gives the factor on the learning rate.
    - warm_up: epochs in which the learning rate rises linearly to where the schedule then is; fewer than all.
    - clip_norm: the largest norm of all gradients together; longer ones are shortened. None: no limit.
    - max_norm: the largest L2 norm of the weights into each unit, those of a row or of a kernel; after each
      step longer ones are shortened (Srivastava et al. 2014; pylearn2's `max_col_norm`). None: no limit.
    - ramp: epochs, or a share of them, in which the radius grows to the recipe's; see `Ramp`.
    - ema: decay in (0, 1), such as 0.9995, of a moving average of the weights, taken after each batch (early
      on with less, so that the first weights fade). It is tested, too, and kept as ema.safetensors, or read
      by `epochs(...).averaged()`. The statistics of BatchNorm are the model's.

    Raises InputError for a value outside its range.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str | Schedule = "constant"
    warm_up: float = 0.0
    clip_norm: float | None = None
    max_norm: float | None = None
    ramp: Ramp | float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        if check_number("momentum", self.momentum, least=0.0) >= 1:
            raise InputError(f"momentum: expected a number from 0 to below 1, got {self.momentum!r}")
        check_number("weight_decay", self.weight_decay, least=0.0)
        find_schedule(self.schedule)
        check_number("warm_up", self.warm_up, least=0.0)
        for name in ("clip_norm", "max_norm"):
            value = getattr(self, name)
            if value is not None and check_number(name, value) <= 0:
                raise InputError(f"{name}: expected a number > 0, got {value!r}; leave it out")
        if self.ema is not None:
            check_share("ema", self.ema)
        if self.ramp is not None and not isinstance(self.ramp, Ramp):
            object.__setattr__(self, "ramp", Ramp(self.ramp))
        # floats, so that 1 and 1.0 are the same run
        for name in ("momentum", "weight_decay", "warm_up", "clip_norm", "max_norm", "ema"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))

    def ramped(self, recipe: Trained, epochs: int) -> list[Trained]:
        """Check the lengths against `epochs`, and return the recipes of the first epochs, one each."""
        if self.warm_up and self.warm_up >= epochs:
            raise InputError(
                f"warm_up: expected fewer than the {epochs} epochs of training, got {self.warm_up:g}"
            )
        return self.ramp.recipes(recipe, epochs) if isinstance(self.ramp, Ramp) else []


def find_rate(optimizer: str, learning_rate: float | None) -> float:
    """Return the learning rate, the optimizer's own unless given. Raises InputError for wrong ones."""
    if optimizer not in LEARNING_RATES:
        raise InputError(f"optimizer: expected one of {sorted(LEARNING_RATES)}, got {optimizer!r}")
    rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
    if check_number("learning_rate", rate) <= 0:
        raise InputError(f"learning_rate: expected a number > 0, got {learning_rate!r}")
    return float(rate)


def make_optimizer(
    model: nn.Module, optimizer: str, learning_rate: float, options: Optimization
) -> Optimizer:
    """Make SGD with momentum or Adam over the parameters that require a gradient; InputError if none does.

    With `max_norm`, each of its steps ends with the weights inside that bound, whoever takes it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            "model: expected parameters that require a gradient, got none; call model.requires_grad_(True)"
        )
    shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": options.weight_decay}
    if optimizer == "sgd":
        made: Optimizer = SGD(parameters, momentum=options.momentum, **shared)
    else:
        made = Adam(parameters, betas=(options.momentum, 0.999), **shared)
    if options.max_norm is not None:
        bounded, most = [weight for weight in parameters if weight.ndim > 1], options.max_norm
        made.register_step_post_hook(lambda *_: _bound(bounded, most))
    return made


def _bound(weights: Sequence[Tensor], most: float) -> None:
    """Shorten the weights into each unit (a row along the first dimension) to an L2 norm of `most`."""
    with torch.no_grad():
        for weight in weights:
            weight.renorm_(2, 0, most)


def find_schedule(schedule: str | Schedule) -> Schedule:
    """Find the schedule of that name, or take the function. InputError unless its factors are finite."""
    factor = SCHEDULES.get(schedule) if isinstance(schedule, str) else schedule
    if not callable(factor):
        raise InputError(
            f"schedule: expected one of {sorted(SCHEDULES)} or a function of the share of training done, "
            f"got {schedule!r}"
        )
    for done in (0.0, 0.5, 1.0):
        check_number(f"schedule({done})", factor(done))
    return factor


def make_schedule(optimizer: Optimizer, options: Optimization, epochs: int, steps: int) -> LambdaLR:
    """Schedule the learning rate of each step; a closed form, so that it does not drift and resumes exactly.

    steps: of an epoch.
    """
    factor, warm_up = find_schedule(options.schedule), options.warm_up * steps

    def rate(step: int) -> float:
        risen = min((step + 1) / warm_up, 1.0) if warm_up else 1.0
        return risen * factor(min(step / (epochs * steps), 1.0))

    return LambdaLR(optimizer, rate)
