"""A job: what `fit` is asked for, checked, and set up as a run."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_device, check_seed, warn
from fastadv._torch import sharding
from fastadv.attacks.autoattack import autoattack
from fastadv.attacks.core.criterion import Criterion
from fastadv.data.content import describe_data, describe_set
from fastadv.data.given import as_dataset, read_by
from fastadv.data.sampling import sample_count
from fastadv.engine.module import dtype_of
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from fastadv.measure.attacks import Attacks, named
from fastadv.measure.bound import Threats
from fastadv.measure.reading import boxes_of, criterion_of, for_data, labels_of
from fastadv.progress import Progress, check_progress
from fastadv.runs import processes
from fastadv.runs.checkpoint import RunRecord
from fastadv.runs.identity import BY_NAME, FORMAT, describe, describe_model, unsaved
from fastadv.train import optim
from fastadv.train._feed import Feed, check_sets
from fastadv.train._results import Results
from fastadv.train._run import Run
from fastadv.train._steps import Steps
from fastadv.train.augment import Augment, make_augment
from fastadv.train.measuring import Measures
from fastadv.train.options import Ending, Execution, Measuring, Optimization, check_execution
from fastadv.train.recipes import RECIPES, OwnStep, Recipe
from fastadv.train.recipes.base import check_recipe, innermost, owns_step


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run is asked for: the arguments of `fit`."""

    model: nn.Module
    train_set: Dataset[Any]
    recipe: Recipe | OwnStep | Callable[..., Tensor] | str
    epochs: int
    threat: Threats | None
    batch_size: int | None
    optimizer: str | optim.MakeOptimizer
    learning_rate: float | None
    augment: str | Augment | Sequence[str | Augment] | None
    test_set: Dataset[Any] | None
    test_attacks: Attacks | None
    run_dir: str | PathLike[str] | None
    resume: bool
    identity: str | None
    seed: int
    device: str | torch.device | None
    progress: Progress
    optimization: Optimization
    measuring: Measuring
    ending: Ending
    execution: Execution


def begun(job: Job) -> Run:
    """Check what is asked, and set up the run."""
    with processes.agreement():
        job = _checked(job)
        recipe = _recipe(job.recipe, job.threat)
        job, measure = _measured(job, innermost(recipe))
        steps = _steps(job, recipe, measure)
        config = _config(job, steps)
    held_out = job.measuring.validation_set
    with processes.agreement():
        config["data"] = describe_data(job.train_set)
        config["validation_set"] = None if held_out is None else describe_data(held_out)
    if processes.world() > 1:
        processes.check_alike(config | _around(job, steps.model, measure))
    rewinds = job.ending.patience is not None or job.ending.on_alarm == "rewind"
    if job.run_dir is not None or rewinds:
        measure.warn()
    record = RunRecord(job.run_dir, config, job.resume)
    about = {}
    if job.run_dir is not None and not processes.rank():
        about = measure.describe(config["validation_set"])
        about["data"] = describe_set(job.train_set, config["data"])
    results = Results(steps, record, rewinds, about)
    return Run(steps, results, measure, job.epochs, job.ending, job.progress)


def _checked(job: Job) -> Job:
    """Return the job with the set and batch size of a DataLoader; InputError for values that cannot be."""
    check_count("epochs", job.epochs, 1)
    check_progress(job.progress)
    for kind in (Optimization, Measuring, Ending, Execution):
        name = kind.__name__.lower()
        if not isinstance(value := getattr(job, name), kind):
            raise InputError(f"{name}: expected a fastadv.train.{kind.__name__}, got {type(value).__name__}")
    if isinstance(job.train_set, DataLoader):
        job = _without_loader(job, job.train_set)
    if job.batch_size is not None:
        check_count("batch_size", job.batch_size, 1)
    check_seed(job.seed)
    return job


def _without_loader(job: Job, loader: DataLoader[Any]) -> Job:
    """Put in the place of a DataLoader its set, its batch size, and whether it drops a rest."""
    batches: Any = loader.batch_sampler
    size = getattr(batches, "batch_size", None)
    if job.batch_size is None and isinstance(size, int):
        job = replace(job, batch_size=size)
    if (dataset := read_by(loader, rest=False)) is not None:
        drop_last = batches.drop_last or job.optimization.drop_last
        return replace(job, train_set=dataset, optimization=replace(job.optimization, drop_last=drop_last))
    if not isinstance(loader.dataset, IterableDataset):
        warn(
            "train_set: this DataLoader has a sampler or collate_fn of its own; it is read once, and each "
            "epoch has the images of this one pass, also those of random transforms; better pass its "
            "dataset, with batch_size= and augment="
        )
    return job


def _measured(job: Job, recipe: object) -> tuple[Job, Measures]:
    """Return the job with data sets for its data, and what is measured after each epoch."""
    wanted = getattr(recipe, "criterion", None)
    test_attacks, threat = job.test_attacks, job.threat
    if isinstance(test_attacks, str) and test_attacks == "screen":
        threat = getattr(recipe, "threat", None) if threat is None else threat
        threat = getattr(threat, "threats", threat)  # those of a recipe of several
        if threat is None:
            raise InputError("threat: expected one for screen, got None; pass threat=fa.Linf(8 / 255)")
        test_attacks = {"screen": partial(autoattack, version="screen", indicators=False)}
    attacks = named(test_attacks, threat, recipe, wanted)
    criterion = criterion_of(attacks, wanted)

    def as_set(name: str, data: Dataset[Any] | None, other: Criterion | None = None) -> Any:
        return None if data is None else as_dataset(data, name, labels_of(other or criterion))

    job = replace(
        job,
        train_set=as_set("train_set", job.train_set, getattr(recipe, "train_criterion", None)),
        test_set=as_set("test_set", job.test_set),
        measuring=replace(
            job.measuring, validation_set=as_set("validation_set", job.measuring.validation_set)
        ),
    )
    box = boxes_of(attacks, job.threat, recipe, job.train_set)
    criterion = for_data(criterion, job.train_set, box)
    sample_count(job.train_set, name="train_set")
    if not attacks and job.ending != Ending():
        raise InputError(
            "test_attacks: expected an attack to measure robustness by, got none; pass test_set= (or "
            "validation_set=) and test_attacks=, or leave out patience and on_alarm"
        )
    return job, Measures(job.test_set, attacks, job.measuring, box, criterion)


def _steps(job: Job, recipe: Recipe | OwnStep, measure: Measures) -> Steps:
    """Set up the optimizer and the batches of the run, and move its model."""
    model, optimization = _without_wrapper(job.model), job.optimization
    box, tested, inner = measure.test.box, measure.test.criterion, innermost(recipe)
    criterion = getattr(inner, "train_criterion", None) or tested
    labels = labels_of(criterion)
    if callable(check := getattr(inner, "check_model", None)):
        check(model, tested=measure.judge.data is not None)
    rate, augment = optim.find_rate(job.optimizer, job.learning_rate), make_augment(job.augment)
    ramp = optim.first_recipes(optimization, recipe, job.epochs)
    if job.device is not None:
        model.to(check_device(job.device))
    optim.check_norms(optimization, model)
    optimizer = optim.make_optimizer(model, job.optimizer, rate, optimization, kept=job.run_dir is not None)
    place = next(model.parameters()).device
    check_execution(job.execution, place, job.run_dir)
    sets = {"train_set": job.train_set, "test_set": job.test_set}
    sets["validation_set"] = job.measuring.validation_set
    batch_size = 128 if job.batch_size is None else job.batch_size
    with rng.generators_kept(place):
        arguments = (model, sets, augment, place, box, tested, criterion)
        try:
            classes = check_sets(*arguments)
        except InputError as error:
            try:
                classes = check_sets(*arguments, batch_size)  # a model may take batches of one size alone
            except InputError:
                raise error from None
    feed = Feed(
        dataset=job.train_set, batch_size=batch_size, augment=augment, seed=job.seed, device=place,
        workers=job.execution.workers, dtype=dtype_of(model),
        drop_last=optimization.drop_last, box=box, labels=labels, within=boxes_of({}, recipe=inner),
    )  # fmt: skip
    # A recipe with a step of its own reads the rate itself, and takes no fused step
    fused = isinstance(job.optimizer, str) and not owns_step(recipe)
    rates = optim.device_rates(optimizer, optimization, place) if fused else None
    scheduler = optim.make_schedule(optimizer, optimization, job.epochs, feed.steps)
    return Steps(
        model=model, feed=feed, recipe=recipe, ramp=ramp, optimizer=optimizer, scheduler=scheduler,
        classes=classes, optimization=optimization, execution=job.execution, rates=rates,
        criterion=criterion,
    )  # fmt: skip


def _recipe(recipe: Any, threat: Threats | None) -> Recipe | OwnStep:
    if not isinstance(recipe, str):
        check_recipe(recipe)
        return recipe  # type: ignore[no-any-return]
    kind = RECIPES[check_choice("recipe", recipe, RECIPES)]
    takes = inspect.signature(kind).parameters
    arguments = {"threat": threat} if "threat" in takes and threat is not None else {}
    lacks = [name for name, one in takes.items() if one.default is one.empty and name not in arguments]
    if lacks == ["threat"]:
        raise InputError(f"threat: expected one for {recipe}, got None; pass threat=fa.Linf(8 / 255)")
    if lacks:
        name = getattr(kind, "__name__", recipe)
        raise InputError(f"recipe: expected fa.train.{name}({', '.join(lacks)}), got {recipe!r} alone")
    return kind(**arguments)


def _without_wrapper(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel; InputError for weights cut among processes."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    while isinstance(model, DistributedDataParallel):
        model = model.module
    sharded, cut = sharding()
    for name, module in model.named_modules():
        wraps = isinstance(module, (DistributedDataParallel, *sharded))
        if wraps or any(isinstance(weight, cut) for weight in module.parameters(recurse=False)):
            raise InputError(
                "model: expected all weights in each process, and DistributedDataParallel around the whole "
                f"of it alone, got a {type(module).__name__}{f' in {name}' if name else ''}; pass the module "
                "as it was before, as fit shares every batch among the processes itself"
            )
    return model


def _config(job: Job, steps: Steps) -> dict[str, Any]:
    """Describe what is trained, but for its data: a folder with another description is not resumed."""
    model, feed, optimization = steps.model, steps.feed, steps.optimization
    code = BY_NAME if job.run_dir is None else job.identity
    known = partial(describe, trained=model, identity=code)
    return {
        **FORMAT,
        "model": describe_model(model),
        "recipe": known(steps.recipe),
        "epochs": job.epochs,
        "batch_size": feed.batch_size,
        "optimizer": known(job.optimizer),
        "learning_rate": optim.find_rate(job.optimizer, job.learning_rate),
        **vars(optimization),
        "ramp": len(steps.ramp),
        "schedule": known(optimization.schedule),
        "augment": feed.augment and known(feed.augment.parts),
        "precision": steps.execution.precision,
        "compile": steps.execution.compile,
        "seed": job.seed,
        "identity": job.identity,
    }


def _around(job: Job, model: nn.Module, measure: Measures) -> dict[str, Any]:
    """Describe what may change when a run is resumed, and must be the same in all of its processes."""
    return {
        "epochs": job.epochs,
        "run_dir": job.run_dir and str(job.run_dir),
        "resume": job.resume,
        "test_set": None if job.test_set is None else describe_data(job.test_set),
        "test_every": measure.every,
        "test_attacks": describe(measure.test.attacks, model, BY_NAME),
        "test_limit": measure.test.limit,
        **vars(job.ending),
        "checkpoint_every": job.execution.checkpoint_every,
        "torch": torch.__version__,
        "initial weights": data_hash(*(model.state_dict() | unsaved(model)).values()),
    }
