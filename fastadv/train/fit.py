"""fit: a model trained on a recipe, one report per epoch; run: the same, to the end."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from os import PathLike
from typing import Any, ParamSpec

import torch
from torch import nn
from torch.utils.data import Dataset

from fastadv._checks import check_count, check_flag, check_seed, check_share
from fastadv.engine.copying.twin import dtype_of
from fastadv.errors import InputError
from fastadv.evaluation import Attack
from fastadv.runs import processes
from fastadv.runs.card import data_hash
from fastadv.runs.description import describe, describe_data, describe_model
from fastadv.runs.record import RunRecord
from fastadv.train._compiled import Compiled, check_compile
from fastadv.train._deterministic import check_deterministic, describe_deterministic
from fastadv.train._ending import Ending
from fastadv.train._epochs import Epochs
from fastadv.train._feed import Feed
from fastadv.train._losses import Losses
from fastadv.train._measure import Measures
from fastadv.train._precision import check_acts, check_precision
from fastadv.train._results import Results
from fastadv.train._run import Run
from fastadv.train._sets import check_sets
from fastadv.train._share import PARTS
from fastadv.train._steps import Steps
from fastadv.train._weights import MovingAverage
from fastadv.train.augment import Augment, make_augment
from fastadv.train.optim import OptimizerOptions, Schedule, find_schedule, make_optimizer, make_schedule
from fastadv.train.ramp import Ramp, make_ramp
from fastadv.train.recipes import OwnStep, Recipe
from fastadv.train.recipes.base import check_recipe
from fastadv.train.report import EpochReport

P = ParamSpec("P")


def fit(
    model: nn.Module,
    train_set: Dataset[Any],
    recipe: Recipe | OwnStep,
    *,
    epochs: int,
    run_dir: str | PathLike[str] | None = None,
    resume: bool = False,
    identity: str | None = None,
    batch_size: int = 128,
    optimizer: str = "sgd",
    learning_rate: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str | Schedule = "constant",
    warm_up: float = 0,
    clip_norm: float | None = None,
    max_norm: float | None = None,
    ramp: Ramp | float | None = None,
    ema: float | None = None,
    augment: str | Augment | Sequence[str | Augment] | None = None,
    precision: str = "fp32",
    deterministic: bool = False,
    compile: bool = False,
    test_set: Dataset[Any] | None = None,
    test_attacks: Mapping[str, Attack] | None = None,
    test_limit: int | None = None,
    validation_set: Dataset[Any] | None = None,
    patience: int | None = None,
    on_alarm: str = "warn",
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint_every: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Epochs:
    """Train `model` in place on `recipe`, and yield a report after every epoch.

    Each epoch is trained when its report is asked for: iterate, or call `run`, which trains to the end.

    - recipe: a loss on (model, x, y), see `Recipe`, or an object that owns its step, see `OwnStep`.
    - learning_rate: 0.05 for "sgd" and 1e-3 for "adam" unless given. momentum is Adam's first beta.
    - schedule: "constant", "step" (a tenth after each third), "piecewise" (a tenth at 1/2 and at 3/4; others
      with `Piecewise`), "cosine", "cyclic" (linearly up to two fifths, then down to 0), "one_cycle" (up over
      three tenths from 1/25, then down to 0, along cosines, as torch's OneCycleLR; momentum stays), or a
      function of the share of training done that gives the factor on the learning rate.
    - warm_up: epochs in which the learning rate rises linearly to where the schedule then is.
    - clip_norm: the most that the norm of all gradients together may be; longer ones are shortened.
    - max_norm: the most that the L2 norm of the weights into each unit may be, those of a row or of a kernel;
      after each step longer ones are shortened (Srivastava et al. 2014; pylearn2's `max_col_norm`).
    - ramp: epochs, or a share of them, in which the radius grows to the recipe's; see `Ramp`.
    - ema: decay of a moving average of the weights, such as 0.9995, taken after each batch (early on with
      less, so that the first weights fade). It is tested, too; the statistics of BatchNorm are the model's.
      `fit(...).averaged()` gives it.
    - augment: "crop", "flip", "alternating_flip", "cutout", "crop_flip", "shift" (crop alone), a function
      (x, *, ids, seed) -> x, or several of them in their order: see `fa.train.augment`. It works on the
      model's device.
    - precision: "bf16" runs the recipe under autocast; "tf32", on a GPU, with matrix products, convolutions
      and recurrent layers in TF32. It holds while a step is taken: measured is in the model's own precision,
      and between the reports torch's switches are the caller's.
    - deterministic: 1, 2, 4 and 8 processes train the same bits. Each batch is cut into 8 parts by place,
      which pass one by one, and sums go through them in their order: slower where a part is small. torch
      takes deterministic kernels meanwhile, or raises. It holds for one machine, one version of torch and one
      number of threads in each process (torchrun sets 1), which a resumed run must have again. Samples must
      pass on their own: BatchNorm in train mode, and whatever else writes into buffers, is refused. A recipe
      that owns its step goes through `Step.each`.
    - compile: run the passes of a step, those of the attack too, through torch.compile. The model keeps its
      class, keys and hooks, and the weights are equal to rounding. The first step waits for the compiler.
    - test_set, test_attacks ({name: attack}, see `fa.evaluate`), test_limit (how many of its images): what
      the accuracies in the reports are measured on.
    - validation_set: images kept out of train_set, on which the test attacks are run, too. The best epoch is
      then chosen and alarms are raised by these, and the test set only reports.
    - patience: epochs without a better accuracy under attack (the lowest of the attacks', with ema that of
      the averaged weights) after which training ends. The model then has the best epoch's weights, also
      where training went on to its end.
    - on_alarm: accuracy under attack that collapses (catastrophic overfitting), or falls while the training
      loss goes on falling (robust overfitting), is logged as a warning and reported. "stop" also ends
      training, "rewind" ends it with the best epoch's weights in the model; "warn" goes on.
    - run_dir: a folder for checkpoint.safetensors (after each epoch, and after each `checkpoint_every`
      steps), report.jsonl, best.safetensors (the weights of the best epoch so far, where there are test
      attacks), and at the end model.safetensors (with ema also ema.safetensors); weights come with a card.
      With resume=True a stopped run continues where it was, bit for bit (on a GPU as far as its kernels are
      deterministic), and yields the epochs still to do; `reports(run_dir)` gives all of them. A run without a
      checkpoint starts from the beginning. With the constant schedule, a larger `epochs` makes a finished run
      longer. The folder is locked while the run lasts.
    - identity: a text that stands for the code of your own model, recipe, schedule and augmentation, which
      are otherwise known by their source; give another one when that code changes. Needed where a source
      cannot be read.
    - workers: processes that read images from disk (by default up to 8 for many of them). Neither their
      number nor their seeds change the result: what a data set's own transforms draw from torch, NumPy and
      `random` is keyed by (seed, epoch, sample).
    - progress: called with (steps done, steps of the whole run) after every step.

    Where a process group is initialized, as under torchrun, its processes train one model together: each has
    its share of every batch of `batch_size` images. Weights and reports are the same in all, and those of one
    process to rounding, with BatchNorm over the whole batch; what torch draws itself, such as dropout, is
    keyed by process. `deterministic` makes both exact. The first process alone writes to run_dir, and a run
    resumes with any number of them. Where one is lost, the others raise LostProcessError.

    On the CPU, and with bf16, the weights are channels-last between the first report and the last, if the
    model allows it. Order, attacks, augmentation and dropout are keyed by (seed, epoch, step, sample id); the
    global random state is neither used nor changed. A model in eval mode is trained in train mode and set
    back afterwards; in a model in train mode, submodules in eval mode stay in eval mode.

    Raises InputError at the call for arguments that cannot work, among them a folder that cannot be written
    or that holds another run; FloatingPointError for a loss or weights that are not finite (the last
    checkpoint is kept); OSError when a file cannot be written; CorruptFileError for a damaged checkpoint.
    """
    with processes.agreement():
        ending = Ending(epochs, patience, on_alarm, attacked=bool(test_attacks))
        measure = Measures.of(test_set, validation_set, dict(test_attacks or {}), test_limit)
        check_count("batch_size", batch_size, 1)
        check_seed(seed)
        if checkpoint_every is not None:
            check_count("checkpoint_every", checkpoint_every, 1)
        check_precision(precision)
        check_recipe(recipe)
        check_flag("deterministic", deterministic)
        check_flag("compile", compile)
        if progress is not None and not callable(progress):
            raise InputError(f"progress: expected a function of (done, total), got {progress!r}")
        if run_dir is None and checkpoint_every:
            raise InputError(
                "run_dir: expected a folder for the checkpoints, got None; "
                "pass run_dir=, or leave out checkpoint_every"
            )
        if ema is not None:
            check_share("ema", ema)
        if len(train_set) == 0:  # type: ignore[arg-type]
            raise InputError("train_set: expected at least one image, got an empty data set")
        factor, augmentation = find_schedule(schedule), make_augment(augment)
        options = OptimizerOptions(
            optimizer, learning_rate, momentum, weight_decay, warm_up, clip_norm, max_norm
        )
        if options.warm_up is not None and options.warm_up >= epochs:
            raise InputError(f"warm_up: expected fewer than the {epochs} epochs of training, got {warm_up}")
        climb = make_ramp(ramp)
        first = [] if climb is None else climb.recipes(recipe, epochs)
        place = None if device is None else _device(device)

        if place is not None:
            model.to(place)
        maker = make_optimizer(model, options)
        place = next(model.parameters()).device
        check_acts(precision, model, place)
        if deterministic:
            check_deterministic(model, place)
        if compile:
            check_compile(model, place, deterministic)
        sets = {"train_set": train_set, "test_set": test_set, "validation_set": validation_set}
        classes = check_sets(model, sets, augmentation, place)
        parts = PARTS if deterministic else None
        feed = Feed(train_set, batch_size, augmentation, seed, place, workers, dtype_of(model), parts)
        count = math.ceil(feed.epoch_size / batch_size)
        steps = Steps(
            model=model,
            train_set=train_set,
            feed=feed,
            recipe=recipe,
            optimizer=maker,
            scheduler=make_schedule(maker, factor, epochs * count, (options.warm_up or 0) * count),
            classes=classes,
            precision=precision,
            seed=seed,
            losses=Losses(count, place),
            clip_norm=options.clip_norm,
            compiled=Compiled(model) if compile else None,
            average=None if ema is None else MovingAverage(model, ema),
            ramp=first,
        )
        config = {
            "model": describe_model(model, identity),
            "data": describe_data(train_set),
            "recipe": describe(recipe, model, identity),
            # with the constant schedule, which does not depend on it, a run may be made longer
            "epochs": None if schedule == "constant" else epochs,
            "batch_size": batch_size,
            **dataclasses.asdict(options),
            # None for what is left out, so that runs of before there was such an option go on
            "ramp": None if climb is None else {**dataclasses.asdict(climb), "epochs": len(first)},
            "ema": None if ema is None else float(ema),
            "validation_set": None if validation_set is None else describe_data(validation_set),
            "schedule": describe(schedule, model, identity),
            "augment": augmentation and describe(augmentation.parts, model, identity),
            "precision": precision,
            "deterministic": describe_deterministic(place) if deterministic else None,
            "compile": compile or None,
            "seed": seed,
            "identity": identity,
        }
    if processes.world() > 1:
        asked = {
            "epochs": epochs,
            "run_dir": None if run_dir is None else str(run_dir),
            "resume": resume,
            "test_set": None if test_set is None else describe_data(test_set),
            "test_attacks": describe(dict(test_attacks or {}), model, identity),
            "test_limit": test_limit,
            "patience": patience,
            "on_alarm": on_alarm,
            "checkpoint_every": checkpoint_every,
            "torch": torch.__version__,
            "initial weights": data_hash(*model.state_dict().values()),
        }
        processes.check_alike({**config, **asked})
    record = RunRecord(run_dir, config, resume)
    results = Results(model, train_set, steps.average, record, ending.may_rewind)
    return Epochs(Run(steps, results, measure, ending, checkpoint_every, progress))


def _to_the_end(each: Callable[P, Epochs]) -> Callable[P, list[EpochReport]]:
    @wraps(each, assigned=())
    def run(*args: P.args, **options: P.kwargs) -> list[EpochReport]:
        """`fit` to its end, with the same arguments and errors: the reports of the epochs it trained."""
        return list(each(*args, **options))

    return run


run = _to_the_end(fit)


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device: expected one that torch can use, got {device!r} ({reason})") from error
