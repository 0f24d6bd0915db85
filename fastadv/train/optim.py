"""How the weights move: the options of `fit` that an optimizer and its schedule follow."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fastadv import rng
from fastadv._checks import check_choice
from fastadv._torch import BatchNorm, NormBase
from fastadv._waiting import waits
from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.runs.checkpoint import check_keeps
from fastadv.threat import Threat
from fastadv.train.options import Optimization
from fastadv.train.recipes import OwnStep, Recipe
from fastadv.train.recipes._common import check_positive
from fastadv.train.schedules import OneCycle, find_schedule

Groups = list[dict[str, Any]]
MakeOptimizer = Callable[[Groups], Optimizer]
"""A function of groups of parameters, such as functools.partial(torch.optim.RMSprop, lr=0.01)."""

LEARNING_RATES = {"sgd": 0.05, "nesterov": 0.05, "adam": 1e-3, "adamw": 1e-3}
# their parameters are scales and shifts, also where they have two dimensions or more
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def check_norms(options: Optimization, model: nn.Module) -> None:
    if options.batch_norm_momentum is not None and not batch_norms(model):
        raise InputError(
            "batch_norm_momentum: expected a model with BatchNorm that keeps statistics, got "
            f"{type(model).__name__} without; leave it out"
        )
    norms = (m for m in model.modules() if isinstance(m, BatchNorm) and not isinstance(m, nn.SyncBatchNorm))
    if processes.world() > 1 and (norm := next(norms, None)) is not None:
        raise InputError(
            f"model: expected no BatchNorm in {processes.world()} processes, as each would see a part of the "
            f"batch, got {type(norm).__name__}; take torch.nn.SyncBatchNorm.convert_sync_batchnorm(model), "
            "which is for GPUs, or one process"
        )


def first_recipes(options: Optimization, recipe: Recipe | OwnStep, epochs: int) -> list[Any]:
    """Return the recipes of the first epochs, in which the radius grows; InputError where it cannot."""
    if options.warm_up and options.warm_up >= epochs:
        raise InputError(f"warm_up: expected fewer than the {epochs} epochs, got {options.warm_up:g}")
    if options.ramp is None:
        return []
    count = options.ramp if isinstance(options.ramp, int) else round(options.ramp * epochs)
    if not 1 <= count < epochs:
        raise InputError(f"ramp: expected from 1 epoch to fewer than all {epochs}, got {count}")
    first = 1 / (count + 1)
    return [_part(recipe, first + (1 - first) * k / count) for k in range(count)]


def _part(recipe: Any, share: float) -> Any:
    """Scale the recipe to this share of its radius; its step size keeps its ratio to radius / steps."""
    plain = dataclasses.is_dataclass(recipe)
    if plain and hasattr(recipe, "recipe"):  # around another one
        return dataclasses.replace(recipe, recipe=_part(recipe.recipe, share))
    threat = getattr(recipe, "threat", None)
    if not (plain and isinstance(threat, Threat) and threat.finite):
        raise InputError(
            f"ramp: expected a recipe that is a dataclass with one threat of finite radius, got {recipe!r}; "
            "leave out ramp"
        )
    radius = float(threat.radius) * share
    if threat.least_step:
        radius = math.ceil(radius * (1 - 1e-9))  # a hair less, so that rounding alone adds no coordinate
    changed: dict[str, Any] = {"threat": threat.with_radius(radius)}
    if getattr(recipe, "step_size", None) is not None:
        changed["step_size"] = max(recipe.step_size * share, threat.least_step)
    return dataclasses.replace(recipe, **changed)


def batch_norms(model: nn.Module) -> list[NormBase]:
    """Return the layers whose running statistics move with a momentum."""
    return [m for m in model.modules() if isinstance(m, NormBase) and m.running_mean is not None]


def find_rate(optimizer: str | MakeOptimizer, learning_rate: float | None) -> float | None:
    """Return the learning rate, by default that of the name; None leaves it to the caller's function."""
    if not callable(optimizer):
        check_choice("optimizer", optimizer, LEARNING_RATES, " or a function of groups of parameters")
        learning_rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
    return None if learning_rate is None else check_positive("learning_rate", learning_rate)


def make_optimizer(
    model: nn.Module, optimizer: str | MakeOptimizer, learning_rate: float | None, options: Optimization, *,
    kept: bool = False,
) -> Optimizer:  # fmt: skip
    """Make the optimizer of the parameters that require a gradient; a function is tried on copies first."""
    groups, momentum = _groups(model, options.norm_decay), options.momentum
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": options.weight_decay}
    result: Optimizer
    if callable(optimizer):
        for name in ("momentum", "weight_decay"):
            if (value := getattr(options, name)) != getattr(Optimization, name):
                raise InputError(
                    f"{name}: expected it in the optimizer that you pass, got {value!r} beside it; bind it "
                    "there, as by functools.partial"
                )
        if learning_rate is not None:
            groups = [{**group, "lr": learning_rate} for group in groups]
        _try(optimizer, groups, kept)
        result = optimizer(groups)
    elif optimizer in ("adam", "adamw"):
        kind = Adam if optimizer == "adam" else AdamW
        result = kind(groups, betas=(momentum, 0.999), **common)
    elif optimizer == "nesterov" and momentum == 0:
        raise InputError("momentum: expected a number > 0 for 'nesterov', got 0; take 'sgd'")
    else:
        result = SGD(groups, momentum=momentum, nesterov=optimizer == "nesterov", **common)
    if options.max_norm is not None:
        weights = [weight for weight in _weights(result.param_groups) if weight.ndim > 1]
        most = options.max_norm

        def bound(*_: object) -> None:
            with torch.no_grad():
                for weight in weights:
                    weight.renorm_(2, 0, most)

        result.register_step_post_hook(bound)
    return result


class DeviceRates:
    """The learning rates of an optimizer as tensors, which the fused form of its step reads."""

    # A CUDA graph then follows a schedule, and a step has the same bits in one as outside

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self.optimizer, self.device = optimizer, device
        with torch.inference_mode(False):
            self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.prepare()

    def prepare(self) -> None:
        """Give the state of the optimizer, new or from a checkpoint, the form that a fused step reads."""
        state = self.optimizer.state
        for held in state.values():
            held.update({k: v.to(self.device) for k, v in held.items() if isinstance(v, Tensor)})
        for group in self.optimizer.param_groups:
            for weight in group["params"] if group.get("momentum") else ():  # SGD alone has one
                # A fused step knows no first one of some weights alone; from zero, it is like the others
                if state[weight].get("momentum_buffer") is None:
                    with torch.inference_mode(False):
                        state[weight]["momentum_buffer"] = torch.zeros_like(weight, requires_grad=False)

    def update(self) -> None:
        """Take the rates of the next step."""
        for rate, group in zip(self._rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    @contextmanager
    def in_use(self, captured: bool = False) -> Iterator[None]:
        """Let steps of the optimizer read them, inside; `captured`: a CUDA graph records these."""
        groups = self.optimizer.param_groups
        before = [dict(group) for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group.update(lr=rate, fused=True)
            if "capturable" in group:  # of Adam, which else refuses to be captured
                group["capturable"] = captured
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)


def device_rates(optimizer: Optimizer, options: Optimization, device: torch.device) -> DeviceRates | None:
    """Return the rates on a GPU of SGD or Adam; None where weights lie elsewhere, or their momentum moves."""
    factor = find_schedule(options.schedule)
    moves = isinstance(factor, OneCycle) and factor.momentum is not None
    places = {weight.device for weight in _weights(optimizer.param_groups)}
    return DeviceRates(optimizer, device) if waits(device) and places == {device} and not moves else None


def _groups(model: nn.Module, norm_decay: bool) -> Groups:
    """Group the parameters that require a gradient by whether they decay; InputError if there are none."""
    groups: dict[bool, list[nn.Parameter]] = {}
    scales = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    for weight in model.parameters():
        if weight.requires_grad:
            decays = norm_decay or not (weight.ndim < 2 or id(weight) in scales)
            groups.setdefault(decays, []).append(weight)
    if not groups:
        raise InputError(
            "model: expected parameters that require a gradient, got none; call model.requires_grad_(True)"
        )
    return [
        {"params": weights} | ({} if decays else {"weight_decay": 0.0}) for decays, weights in groups.items()
    ]


def _weights(groups: Groups) -> list[nn.Parameter]:
    return [weight for group in groups for weight in group["params"]]


def _try(optimizer: MakeOptimizer, groups: Groups, kept: bool) -> None:
    """Raise InputError unless this makes an optimizer that `fit` can use; on copies, with zero gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        copies = deepcopy(groups)
        weights = _weights(copies)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        with rng.generators_kept(weights[0].device):
            trial = optimizer(copies)
            alike = isinstance(trial, Optimizer) and [*map(id, _weights(trial.param_groups))]
            if alike != [*map(id, weights)]:
                raise InputError(
                    "optimizer: expected a function that returns a torch.optim.Optimizer of the groups that "
                    f"it takes, got a {type(trial).__name__}{' of others' if alike else ''}; make it inside "
                    "the function, of its argument"
                )
            try:
                trial.step()
            except TypeError as error:
                raise InputError(
                    f"optimizer: expected one whose step() takes no closure, got {type(trial).__name__} "
                    f"({error}); train with it in a loop of your own"
                ) from error
    if kept:
        check_keeps(trial)


def continue_schedule(scheduler: LambdaLR) -> None:
    """Set the rates of the next step: a schedule that is now of more epochs has others."""
    groups, at = scheduler.optimizer.param_groups, scheduler.last_epoch
    for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(at)


def make_schedule(optimizer: Optimizer, options: Optimization, epochs: int, steps: int) -> LambdaLR:
    """Schedule the learning rate of each step; a closed form does not drift, and resumes exactly."""
    factor, rising = find_schedule(options.schedule), options.warm_up * steps

    def done(step: int) -> float:
        by_epoch = options.schedule_by == "epoch"
        return min((step // steps) / epochs if by_epoch else step / (epochs * steps), 1.0)

    def rate(step: int) -> float:
        risen = min((step + 1) / rising, 1.0) if rising else 1.0
        return risen * factor(done(step))

    scheduler = LambdaLR(optimizer, rate)
    if not isinstance(factor, OneCycle) or factor.momentum is None:
        return scheduler
    if not all(group.keys() & {"momentum", "betas"} for group in optimizer.param_groups):
        raise InputError(
            f"schedule: expected one that leaves the momentum alone, which {type(optimizer).__name__} does "
            "not have, got one that moves it; take 'one_cycle'"
        )

    def move_momentum(*_: object) -> None:
        momentum = factor._momentum_at(done(scheduler.last_epoch))
        for group in optimizer.param_groups:
            if "momentum" in group:
                group["momentum"] = momentum
            else:
                group["betas"] = (momentum, *group["betas"][1:])

    optimizer.register_step_pre_hook(move_momentum)
    return scheduler
