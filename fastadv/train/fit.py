"""fit: train a model on a recipe, to the end; epochs: the same, epoch by epoch."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_device, check_seed, knowing, warn
from fastadv._torch import sharding
from fastadv.data.content import describe_set, describe_shared
from fastadv.data.given import as_dataset, read_by
from fastadv.data.sampling import sample_count
from fastadv.engine.module import dtype_of
from fastadv.errors import InputError
from fastadv.evaluation.measure import for_data
from fastadv.evaluation.named import Attacks, boxes_of, criterion_of, labels_of, named
from fastadv.progress import Progress, check_progress
from fastadv.runs import processes
from fastadv.runs.card import data_hash
from fastadv.runs.description import describe, describe_model
from fastadv.runs.record import RunRecord
from fastadv.threat import Threat
from fastadv.train import optim
from fastadv.train._feed import Feed, check_sets, first_rows
from fastadv.train._results import Results
from fastadv.train._run import Epochs, Run
from fastadv.train._steps import Steps
from fastadv.train.augment import Augment, make_augment
from fastadv.train.measuring import Measures
from fastadv.train.options import Ending, Execution, Measuring, Optimization, check_execution, decided
from fastadv.train.recipes import RECIPES, OwnStep, Recipe
from fastadv.train.recipes.base import check_recipe, innermost, owns_step
from fastadv.train.report import EpochReport


@knowing
def fit(
    model: nn.Module, train_set: Dataset[Any], recipe: Recipe | OwnStep | str, *, epochs: int,
    threat: Threat | None = None, batch_size: int | None = None, optimizer: str | optim.MakeOptimizer = "sgd",
    learning_rate: float | None = None, augment: str | Augment | Sequence[str | Augment] | None = None,
    test_set: Dataset[Any] | None = None, test_attacks: Attacks | None = None,
    run_dir: str | PathLike[str] | None = None, resume: bool = False, identity: str | None = None,
    seed: int = 0, device: str | torch.device | None = None, progress: Progress = False,
    optimization: Optimization = Optimization(), measuring: Measuring = Measuring(),
    ending: Ending = Ending(), execution: Execution = Execution(),
) -> list[EpochReport]:  # fmt: skip
    """Train `model` in place on `recipe`, to the end.

    Where a process group is initialized, as under torchrun, its processes train one model together: each has
    its share of every batch of `batch_size` images. Weights and reports are the same in all, and those of one
    process to rounding; what torch draws itself, such as dropout, is keyed by process. Only the first process
    writes to run_dir, and a run resumes with any number of them. Where one is lost, the others raise
    LostProcessError. Of a model in DistributedDataParallel the module inside is trained; weights that are cut
    among processes, as FSDP does, are refused.

    On the CPU, and with bf16, the weights are channels-last until the end, if the model allows it. A model in
    eval mode is trained in train mode and set back; in one in train mode, submodules in eval mode stay so.

    Args:
        model: a module; x [B, ...] to logits [B, K]. Its weights are changed.
        train_set: as `fa.evaluate` takes data, in the recipe's box, too; of a DataLoader, its set, batch size
            and drop_last: the order is that of the seed. One with weights or a collate_fn of its own is read
            once, with a warning.
        recipe: a loss on (model, x, y), see `Recipe`, or an object that owns its step, see `OwnStep`; or the
            name of a recipe with its defaults: "standard", "fgsm", "pgd", "trades", "mart", "score",
            "fast" or "free".
        epochs: passes through the training images, 1 or more.
        threat: of a recipe given by name, and of test attacks without one; alone, its box is the data's.
        batch_size: images of a step, 1 or more; None is that of a DataLoader, otherwise 128.
        optimizer: "sgd", "nesterov", "adam" or "adamw". A function of groups of parameters that makes one,
            such as partial(torch.optim.RMSprop, lr=0.01), has its own momentum and weight decay.
        learning_rate: above 0; None is 0.05 for "sgd" and "nesterov", 1e-3 for "adam" and "adamw", and a
            function's own.
        augment: a name in `fa.train.augment.AUGMENTS`, a function (x, `*`, ids, seed) -> x, or several of
            them in their order, on the model's device. None leaves the images as they are.
        test_set: the set on which accuracies are measured; None measures none.
        test_attacks: as `fa.evaluate` takes attacks, for the accuracies under attack.
        run_dir: a folder for checkpoint.safetensors, report.jsonl, best.safetensors (the weights of the best
            epoch so far, where there are test attacks), and at the end model.safetensors (with ema also
            ema.safetensors); weights come with a card. It is locked while the run lasts. None writes nothing.
        resume: continue a stopped run of `run_dir` where it was, bit for bit (on a GPU as far as its kernels
            are deterministic); `reports(run_dir)` gives all epochs. A run without a checkpoint starts from
            the beginning. With schedule="constant", a larger `epochs` extends a finished run.
        identity: a text that represents the code of your own model, recipe, schedule and augmentation, which
            are otherwise known by their source. Needed where a source cannot be read, and for images that
            nothing tells from others: a set is known by its `data_hash` or its tensors, otherwise by its
            items, up to 100,000, which a run with a folder reads once.
        seed: keys order, attacks, augmentation and dropout. The global random state is neither used nor
            changed.
        device: where the model is moved first; None leaves it where it is.
        progress: True shows a bar on stderr, with the epoch and the loss of the one before; a function is
            called with (steps done, steps of the whole run) after every step.
        optimization: momentum, weight decay, schedule, clipping, ramp, moving average: see `Optimization`.
        measuring: a validation set, how much is tested: see `Measuring`.
        ending: early stopping, and what an alarm does: see `Ending`.
        execution: precision, workers, checkpoints within an epoch: see `Execution`.

    Returns:
        The list of the `EpochReport` of each epoch that it trained: none, which is logged, of a finished run.

    Raises:
        InputError: an argument cannot work, or the folder cannot be written or holds another run; at the
            call.
        FloatingPointError: the loss or weights are not finite; the last checkpoint is kept.
        OSError: a file cannot be written.
        CorruptFileError: a checkpoint is damaged.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> reports = fa.train.fit(model, digits, "pgd", threat=fa.Linf(0.1), epochs=2, batch_size=32)
        >>> reports[1].epoch, reports[1].loss < reports[0].loss
        (2, True)
    """
    return list(_begun(locals()).go())


run = fit  # its earlier name


def epochs(
    model: nn.Module, train_set: Dataset[Any], recipe: Recipe | OwnStep | str, **options: Any
) -> Epochs:
    """Train as `fit` does, an epoch each time that a report is asked for.

    Args:
        model: as `fit` takes it.
        train_set: as `fit` takes it.
        recipe: as `fit` takes it.
        options: the other arguments of `fit`, by name.

    Returns:
        An iterator of `EpochReport`. Its `averaged()` is the moving average of the weights so far, as a state
        dict, with `Optimization(ema=)`.

    Raises:
        InputError: at the call, as by `fit`, whose other errors come with the epoch that meets them.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> [report.epoch for report in fa.train.epochs(model, digits, "standard", epochs=2)]
        [1, 2]
    """
    given = inspect.signature(fit).bind(model, train_set, recipe, **options)
    given.apply_defaults()
    return Epochs(_begun(given.arguments))


def _take_loader(o: SimpleNamespace) -> None:
    """Put in the place of a DataLoader its set, its batch size, and whether it drops a rest."""
    loader, batches = o.train_set, o.train_set.batch_sampler
    size = getattr(batches, "batch_size", None)
    o.batch_size = size if o.batch_size is None and isinstance(size, int) else o.batch_size
    if (read := read_by(loader, rest=False)) is not None:
        o.train_set = read
        o.optimization = replace(o.optimization, drop_last=batches.drop_last or o.optimization.drop_last)
    elif not isinstance(loader.dataset, IterableDataset):
        warn(
            "train_set: this DataLoader has a sampler or collate_fn of its own; it is read once, and each "
            "epoch has the images of this one pass, also those of random transforms; better pass its "
            "dataset, with batch_size= and augment="
        )


def _begun(given: dict[str, Any]) -> Run:
    """Check what is asked, the arguments of `fit` by name, and set up the run."""
    o = SimpleNamespace(**given)
    measuring: Measuring = o.measuring
    with processes.agreement():
        check_count("epochs", o.epochs, 1)
        _check_options(o)
        if isinstance(o.train_set, DataLoader):
            _take_loader(o)
        o.batch_size = 128 if o.batch_size is None else o.batch_size
        check_count("batch_size", o.batch_size, 1)
        check_seed(o.seed)
        o.recipe = _recipe(o.recipe, o.threat)
        inner = innermost(o.recipe)
        wanted = getattr(inner, "criterion", None)
        attacks = named(o.test_attacks, o.threat, inner, wanted)
        criterion = criterion_of(attacks, wanted)
        o.train_set = as_dataset(o.train_set, "train_set", labels_of(criterion))
        o.test_set = None if o.test_set is None else as_dataset(o.test_set, "test_set", labels_of(criterion))
        if (held_out := measuring.validation_set) is not None:
            held_out = as_dataset(held_out, "validation_set", labels_of(criterion))
            measuring = replace(measuring, validation_set=held_out)
        box = boxes_of(attacks, o.threat, inner, o.train_set)
        criterion = for_data(criterion, o.train_set, box)
        model = _without_wrapper(o.model)
        sample_count(o.train_set, name="train_set")
        if not attacks and o.ending != Ending():
            raise InputError(
                "test_attacks: expected an attack to measure robustness by, got none; pass test_set= (or "
                "validation_set=) and test_attacks=, or leave out patience and on_alarm"
            )
        measure = Measures(o.test_set, attacks, measuring, box, criterion)
        rate, augment = optim.find_rate(o.optimizer, o.learning_rate), make_augment(o.augment)
        ramp = optim.first_recipes(o.optimization, o.recipe, o.epochs)

        if o.device is not None:
            model.to(check_device(o.device))
        optim.check_norms(o.optimization, model)
        optimizer = optim.make_optimizer(model, o.optimizer, rate, o.optimization, kept=o.run_dir is not None)
        place = next(model.parameters()).device
        check_execution(o.execution, model, o.recipe, place, o.run_dir)
        sets = {"train_set": o.train_set, "test_set": o.test_set, "validation_set": measuring.validation_set}
        with rng.generators_kept(place):
            classes = check_sets(model, sets, augment, place, box, criterion)
        # a run with a constant schedule may be made longer
        untried = o.execution.compile is None
        planned = 1 if o.optimization.schedule == "constant" else o.epochs
        o.execution = decided(
            o.execution, model, o.recipe, planned * sample_count(o.train_set),
            lambda: first_rows(o.train_set, 1, box, labels_of(criterion))[0].to(place),
        )  # fmt: skip
        feed = Feed(
            dataset=o.train_set, batch_size=o.batch_size, augment=augment, seed=o.seed, device=place,
            workers=o.execution.workers, dtype=dtype_of(model), drop_last=o.optimization.drop_last, box=box,
            labels=labels_of(criterion),
        )  # fmt: skip
        # a step of the recipe's own reads the rate itself, and takes no fused step
        fused = isinstance(o.optimizer, str) and not owns_step(o.recipe)
        rates = optim.device_rates(optimizer, o.optimization, place) if fused else None
        scheduler = optim.make_schedule(optimizer, o.optimization, o.epochs, feed.steps)
        steps = Steps(
            model=model, train_set=o.train_set, feed=feed, recipe=o.recipe, ramp=ramp, optimizer=optimizer,
            scheduler=scheduler, classes=classes, seed=o.seed, optimization=o.optimization,
            execution=o.execution, rates=rates, untried=untried, criterion=criterion,
        )  # fmt: skip
        config = _config(steps, o, rate)
    kept = o.run_dir, o.identity
    config["data"] = describe_shared(o.train_set, *kept)
    config["validation_set"] = None if held_out is None else describe_shared(held_out, *kept)
    if processes.world() > 1:
        asked = {"epochs": o.epochs, "run_dir": o.run_dir and str(o.run_dir), "resume": o.resume}
        asked["test_set"] = None if o.test_set is None else describe_shared(o.test_set)
        processes.check_alike(config | asked | _around(model, measure, o))
    rewinds = o.ending.patience is not None or o.ending.on_alarm == "rewind"
    if o.run_dir is not None or rewinds:
        measure.warn()
    record = RunRecord(o.run_dir, config, o.resume)
    about = {}
    if o.run_dir is not None and not processes.rank():
        about = measure.describe(config["validation_set"])
        about["data"] = describe_set(o.train_set, config["data"])
    results = Results(steps, record, rewinds, about)
    return Run(steps, results, measure, o.epochs, o.ending, o.progress)


def _recipe(recipe: Any, threat: Threat | None) -> Recipe | OwnStep:
    if not isinstance(recipe, str):
        check_recipe(recipe)
        return recipe  # type: ignore[no-any-return]
    kind = RECIPES[check_choice("recipe", recipe, RECIPES)]
    takes = inspect.signature(kind).parameters
    given = {"threat": threat} if "threat" in takes and threat is not None else {}
    lacks = [name for name, one in takes.items() if one.default is one.empty and name not in given]
    if lacks == ["threat"]:
        raise InputError(f"threat: expected one for {recipe}, got None; pass threat=fa.Linf(8 / 255)")
    if lacks:
        name = getattr(kind, "__name__", recipe)
        raise InputError(f"recipe: expected fa.train.{name}({', '.join(lacks)}), got {recipe!r} alone")
    return kind(**given)


def _check_options(o: SimpleNamespace) -> None:
    check_progress(o.progress)
    for kind in (Optimization, Measuring, Ending, Execution):
        name = kind.__name__.lower()
        if not isinstance(given := getattr(o, name), kind):
            raise InputError(f"{name}: expected a fastadv.train.{kind.__name__}, got {type(given).__name__}")


_INSTEAD = "pass the module as it was before, as fit shares every batch among the processes itself"


def _without_wrapper(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel; InputError for weights cut among processes."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    while isinstance(model, DistributedDataParallel):
        model = model.module
    sharded, cut = sharding()
    for name, module in model.named_modules():
        inside = f" in {name}" if name else ""
        if isinstance(module, DistributedDataParallel):
            raise InputError(
                f"model: expected DistributedDataParallel around the whole of it, got one{inside}; {_INSTEAD}"
            )
        if isinstance(module, sharded) or any(isinstance(each, cut) for each in module.parameters(False)):
            raise InputError(
                "model: expected all weights in each process, got weights that are cut among processes, as "
                f"by fully_shard or FSDP{inside}; {_INSTEAD}"
            )
    return model


def _config(steps: Steps, o: SimpleNamespace, rate: float | None) -> dict[str, Any]:
    """Describe what is trained, but for its data: a folder with another description is not resumed."""
    model, feed, optimization = steps.model, steps.feed, steps.optimization
    return {
        "model": describe_model(model, o.identity),
        "recipe": describe(steps.recipe, model, o.identity),
        # with the constant schedule, which does not depend on it, a run may be made longer
        "epochs": None if optimization.schedule == "constant" else o.epochs,
        "batch_size": feed.batch_size,
        "optimizer": describe(o.optimizer, model, o.identity),
        "learning_rate": rate,
        **vars(optimization),
        "ramp": len(steps.ramp),
        "schedule": describe(optimization.schedule, model, o.identity),
        "augment": feed.augment and describe(feed.augment.parts, model, o.identity),
        "precision": steps.execution.precision,
        "compile": bool(steps.execution.compile),
        "seed": steps.seed,
        "identity": o.identity,
    }


def _around(model: nn.Module, measure: Measures, o: SimpleNamespace) -> dict[str, Any]:
    """Describe what may change when a run is resumed, and must be the same in all of its processes."""
    return {
        "test_every": measure.every,
        "test_attacks": describe(measure.test.attacks, model, o.identity),
        "test_limit": measure.test.limit,
        **vars(o.ending),
        "checkpoint_every": o.execution.checkpoint_every,
        "torch": torch.__version__,
        "initial weights": data_hash(*model.state_dict().values()),
    }
