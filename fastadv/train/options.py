"""The options of `fit` in groups: optimization, what is measured, when a run ends, how it is carried out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from fastadv._checks import (
    OnEvent,
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_on_event,
    check_share,
)
from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.train.recipes._common import check_positive
from fastadv.train.schedules import DEFAULT, Schedule, find_schedule

# floats in a run's identity, so that 1 and 1.0 are the same run
FLOATS = ("momentum", "weight_decay", "warm_up", "batch_norm_momentum", "clip_norm", "max_norm", "ema")


def check_unless_none(check: Callable[..., Any], name: str, value: Any, *limits: Any, **options: Any) -> None:
    """Check a value that may be left out."""
    if value is not None:
        check(name, value, *limits, **options)


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the weights are optimized, in addition to the optimizer and its learning rate.

    Args:
        momentum: that of SGD, from 0 to below 1; the first beta of Adam.
        weight_decay: that of the optimizer, 0 or more.
        norm_decay: whether weight decay also shrinks biases and the parameters of normalization.
        schedule: "constant", "step" (a tenth after each third), "piecewise" (see `Piecewise`), "cosine",
            "cyclic", "cyclic_half" (see `Cyclic`), "one_cycle", "one_cycle_momentum" (see `OneCycle`), or a
            function of the share of training done that gives the factor on the learning rate.
        schedule_by: "step", or "epoch": the factor is then constant within an epoch.
        warm_up: epochs in which the learning rate rises linearly to where the schedule then is.
        drop_last: whether the images that do not fill a step are left out of an epoch, others in each.
        batch_norm_momentum: that of BatchNorm's running statistics, in (0, 1], in torch's convention.
            None uses the model's own; it is restored afterwards.
        clip_norm: the largest norm of all gradients together; None sets no limit.
        max_norm: the largest L2 norm of the weights into each unit, those of a row or of a kernel; after each
            step larger ones are scaled down (pylearn2's `max_col_norm`). None sets no limit.
        ramp: epochs, or below 1 a share of all, after each of which the radius grows by the same amount, to
            the recipe's. From random weights, training at a large radius may stay at chance. A step size
            keeps its ratio to radius / steps; radii of L0 are rounded up.
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
        check_flag("drop_last", self.drop_last)
        check_unless_none(check_share, "batch_norm_momentum", self.batch_norm_momentum, one=True)
        check_number("warm_up", self.warm_up, least=0.0)
        check_unless_none(check_positive, "clip_norm", self.clip_norm)
        check_unless_none(check_positive, "max_norm", self.max_norm)
        check_unless_none(check_share, "ema", self.ema)
        if isinstance(self.ramp, float) and self.ramp < 1:
            check_share("ramp", self.ramp)
        else:
            check_unless_none(check_count, "ramp", self.ramp, 1)
        for name in FLOATS:
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured after each epoch, in addition to `test_set` and `test_attacks`.

    Args:
        validation_set: images kept out of the training set, on which the test attacks are run, too. They then
            decide which epoch is the best and raise alarms, and the test set only reports.
        test_limit: how many images of the test set are tested, as `fa.evaluate` takes them; None tests all.
        test_every: epochs from one test to the next, 1 or more; the last epoch is always tested.
        on_event: called in the first process with each report, as a dictionary, once it is kept.
    """

    validation_set: Dataset[Any] | None = None
    test_limit: int | None = None
    test_every: int = 1
    on_event: OnEvent | None = None

    def __post_init__(self) -> None:
        check_count("test_every", self.test_every, 1)
        check_unless_none(check_count, "test_limit", self.test_limit, 1)
        check_on_event(self.on_event)


ACTIONS = ("warn", "stop", "rewind")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """When training ends before its last epoch, and with which weights; it needs `test_attacks`.

    Args:
        patience: epochs, 1 or more, without a better accuracy under attack (the lowest of the attacks', with
            ema that of the averaged weights) after which training ends. The model then has the best epoch's
            weights, also where training reaches its end. None trains to the end, and keeps the last weights.
        on_alarm: accuracy under attack that collapses (catastrophic overfitting), or falls while the training
            loss keeps falling (robust overfitting), is logged as a warning and reported. "warn" continues,
            "stop" also ends training, "rewind" ends it with the best epoch's weights in the model.
    """

    patience: int | None = None
    on_alarm: str = "warn"

    def __post_init__(self) -> None:
        check_unless_none(check_count, "patience", self.patience, 1)
        check_choice("on_alarm", self.on_alarm, ACTIONS)


PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out: what changes speed and rounding, not what is trained.

    Args:
        precision: "fp32"; "bf16" runs the recipe under autocast and searches its examples in it. Accuracies
            are measured in the model's own precision.
        workers: processes that read images from disk, 0 or more; None is up to 8 for many images. They do not
            change the result: what a data set draws itself is keyed by (seed, epoch, sample).
        checkpoint_every: steps after which a checkpoint is also written within an epoch, 1 or more; it needs
            a `run_dir`.
        cuda_graph: whether steps that a batch fills are captured as CUDA graphs: search, passes and optimizer
            are then one launch. None, the default, does so on a GPU for a recipe of this library and an
            optimizer by name; True also for a recipe, or a loss in it, of your own, which then must do the
            same in every step. Others run as they are, their searches alone captured as in `freeze`, and the
            log says once why: the recipe owns its step, several processes, or a model that has hooks, reads
            values, draws random numbers on the CPU, or counts outside itself (which is not seen).
        compile: whether the model and its search go through torch.compile in steps that a batch fills, which
            takes a minute at the start, in one process.
    """

    precision: str = "fp32"
    workers: int | None = None
    checkpoint_every: int | None = None
    cuda_graph: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision == "fp16":
            raise InputError(
                "precision: expected 'fp32' or 'bf16', got 'fp16', which needs scaled losses; take 'bf16', "
                "or train in a loop of your own with torch.amp.GradScaler"
            )
        check_choice("precision", self.precision, PRECISIONS)
        check_unless_none(check_flag, "cuda_graph", self.cuda_graph)
        check_flag("compile", self.compile)
        check_unless_none(check_count, "workers", self.workers, 0)
        check_unless_none(check_count, "checkpoint_every", self.checkpoint_every, 1)


def check_execution(execution: Execution, device: torch.device, run_dir: Any) -> None:
    if run_dir is None and execution.checkpoint_every:
        raise InputError(
            "run_dir: expected a folder for the checkpoints, got None; "
            "pass run_dir=, or leave out checkpoint_every"
        )
    if execution.cuda_graph and device.type != "cuda":
        raise InputError(f"cuda_graph: expected a model on a CUDA device, got {device}; leave it out")
    if execution.compile and processes.world() > 1:
        raise InputError(f"compile: expected one process, got {processes.world()}; leave it out")
