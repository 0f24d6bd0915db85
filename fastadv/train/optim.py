"""How the weights move: the options of `fit` that an optimizer and its schedule follow."""

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fastadv._checks import check_count, check_flag, check_number, check_share
from fastadv._torch import NormBase
from fastadv.errors import InputError
from fastadv.train._optimizers import MakeOptimizer, bound, make
from fastadv.train.ramp import Trained, ramped
from fastadv.train.schedules import DEFAULT, Schedule, find_schedule, follow


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the weights are optimized, in addition to the optimizer and its learning rate.

    Args:
        momentum: of SGD, from 0 to below 1; the first beta of Adam.
        weight_decay: of the optimizer, 0 or more.
        norm_decay: whether weight decay also shrinks biases and the parameters of normalization.
        schedule: "constant", "step" (a tenth after each third), "piecewise" (a tenth at 1/2 and at 3/4;
            others with `Piecewise`), "cosine", "cyclic" (linearly up to two fifths, then down to 0),
            "cyclic_half" (from 0 up to a half; others with `Cyclic`), "one_cycle" (up over three tenths from
            1/25, then down to 0, along cosines, as torch's OneCycleLR), "one_cycle_momentum" (the momentum
            moves, too: see `OneCycle`), or a function of the share of training done that gives the factor on
            the learning rate.
        schedule_by: "step", or "epoch": the factor is then constant within an epoch.
        warm_up: epochs in which the learning rate rises linearly to where the schedule then is; fewer than
            all.
        accumulate: passes whose gradients make one step, 1 or more: batches of `batch_size` pass one after
            another, and count as one batch of their total size. BatchNorm sees each pass separately.
        drop_last: whether the images that do not fill a step are left out of an epoch; they are others in
            each.
        batch_norm_momentum: with which BatchNorm's running statistics move, in (0, 1], in torch's convention,
            0.1 where the model has no other. None uses the model's own; it is restored afterwards.
        clip_norm: the largest norm of all gradients together; larger ones are scaled down. None sets no
            limit.
        max_norm: the largest L2 norm of the weights into each unit, those of a row or of a kernel; after each
            step larger ones are scaled down (pylearn2's `max_col_norm`). None sets no limit.
        ramp: epochs, or below 1 a share of all, after each of which the radius grows by the same amount, to
            the recipe's. From random weights, training at a large radius may stay at chance; from those of a
            smaller one it learns. A step size keeps its ratio to radius / steps; radii of L0 are rounded up.
        ema: decay in (0, 1), such as 0.9995, of a moving average of the weights, taken after each batch
            (early on with less, so that the first weights fade). It is tested, too, and kept as
            ema.safetensors, or read by `epochs(...).averaged()`. The statistics of BatchNorm are the model's.

    Source:
        Srivastava et al. 2014, "Dropout", for `max_norm`.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4
    norm_decay: bool = True
    schedule: str | Schedule = DEFAULT
    schedule_by: str = "step"
    warm_up: float = 0.0
    accumulate: int = 1
    drop_last: bool = False
    batch_norm_momentum: float | None = None
    clip_norm: float | None = None
    max_norm: float | None = None
    ramp: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        if check_number("momentum", self.momentum, least=0.0) >= 1:
            raise InputError(f"momentum: expected a number from 0 to below 1, got {self.momentum!r}")
        check_number("weight_decay", self.weight_decay, least=0.0)
        check_flag("norm_decay", self.norm_decay)
        find_schedule(self.schedule)
        if self.schedule_by not in ("step", "epoch"):
            raise InputError(f"schedule_by: expected 'step' or 'epoch', got {self.schedule_by!r}")
        check_count("accumulate", self.accumulate, 1)
        check_flag("drop_last", self.drop_last)
        if self.batch_norm_momentum is not None:
            check_share("batch_norm_momentum", self.batch_norm_momentum, one=True)
        check_number("warm_up", self.warm_up, least=0.0)
        for name in ("clip_norm", "max_norm"):
            value = getattr(self, name)
            if value is not None and check_number(name, value) <= 0:
                raise InputError(f"{name}: expected a number > 0, got {value!r}; leave it out")
        if self.ema is not None:
            check_share("ema", self.ema)
        if isinstance(self.ramp, float) and self.ramp < 1:
            check_share("ramp", self.ramp)
        elif self.ramp is not None:
            check_count("ramp", self.ramp, 1)
        # floats, so that 1 and 1.0 are the same run
        for name in (
            "momentum",
            "weight_decay",
            "warm_up",
            "batch_norm_momentum",
            "clip_norm",
            "max_norm",
            "ema",
        ):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))


def _check_left_alone(options: Optimization) -> None:
    """Raise InputError for options that an optimizer of the caller's own has itself."""
    for name in ("momentum", "weight_decay"):
        default = getattr(Optimization, name)
        if getattr(options, name) != default:
            raise InputError(
                f"{name}: expected it in the optimizer that you pass, got {getattr(options, name)!r} beside "
                "it; bind it there, as by functools.partial"
            )


def check_norms(options: Optimization, model: nn.Module) -> None:
    """Raise InputError for options of BatchNorm where the model has none."""
    if options.batch_norm_momentum is not None and not batch_norms(model):
        raise InputError(
            "batch_norm_momentum: expected a model with BatchNorm that keeps statistics, got "
            f"{type(model).__name__} without; leave it out"
        )


def first_recipes(options: Optimization, recipe: Trained, epochs: int) -> list[Trained]:
    """Return the recipes of the first epochs, those with a smaller radius; InputError for too long a ramp."""
    if options.warm_up and options.warm_up >= epochs:
        raise InputError(
            f"warm_up: expected fewer than the {epochs} epochs of training, got {options.warm_up:g}"
        )
    return [] if options.ramp is None else ramped(options.ramp, recipe, epochs)


def batch_norms(model: nn.Module) -> list[NormBase]:
    """Return the layers whose running statistics move with a momentum."""
    return [m for m in model.modules() if isinstance(m, NormBase) and m.running_mean is not None]


def make_optimizer(
    model: nn.Module,
    optimizer: str | MakeOptimizer,
    learning_rate: float | None,
    options: Optimization,
    *,
    kept: bool = False,
) -> Optimizer:
    """Make the optimizer; with `max_norm`, each of its steps ends with the weights inside that bound."""
    if callable(optimizer):
        _check_left_alone(options)
    made = make(
        model, optimizer, learning_rate, momentum=options.momentum, weight_decay=options.weight_decay,
        norm_decay=options.norm_decay, kept=kept,
    )  # fmt: skip
    if options.max_norm is not None:
        weights = [weight for group in made.param_groups for weight in group["params"]]
        bounded, most = [weight for weight in weights if weight.ndim > 1], options.max_norm
        made.register_step_post_hook(lambda *_: bound(bounded, most))
    return made


def make_schedule(optimizer: Optimizer, options: Optimization, epochs: int, steps: int) -> LambdaLR:
    """Schedule the learning rate of each step. steps: of an epoch."""
    by_epoch = options.schedule_by == "epoch"
    return follow(optimizer, options.schedule, epochs, steps, warm_up=options.warm_up, by_epoch=by_epoch)
