"""fit: train a model on a recipe, to the end; epochs: the same, epoch by epoch."""

import inspect
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_known, knowing
from fastadv.measure.attacks import Attacks
from fastadv.measure.bound import Threats
from fastadv.progress import Progress
from fastadv.train import optim
from fastadv.train._job import Job, begun
from fastadv.train._run import Epochs
from fastadv.train.augment import Augment
from fastadv.train.options import Ending, Execution, Measuring, Optimization
from fastadv.train.recipes import OwnStep, Recipe
from fastadv.train.report import Reports


@knowing
def fit(
    model: nn.Module, train_set: Dataset[Any], recipe: Recipe | OwnStep | Callable[..., Tensor] | str, *,
    epochs: int, threat: Threats | None = None, batch_size: int | None = None,
    optimizer: str | optim.MakeOptimizer = "sgd", learning_rate: float | None = None,
    augment: str | Augment | Sequence[str | Augment] | None = None, test_set: Dataset[Any] | None = None,
    test_attacks: Attacks | None = None, run_dir: str | PathLike[str] | None = None, resume: bool = False,
    identity: str | None = None, seed: int = 0, device: str | torch.device | None = None,
    progress: Progress = False, optimization: Optimization = Optimization(),
    measuring: Measuring = Measuring(), ending: Ending = Ending(), execution: Execution = Execution(),
) -> Reports:  # fmt: skip
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
        recipe: a loss on (model, x, y), see `Recipe`, which a function of your own may be; or an object that
            owns its step, see `OwnStep`; or the name of a recipe with its defaults: "standard", "fgsm",
            "pgd", "trades", "mart", "score", "fast", "free" or "aligned".
        epochs: passes through the training images, 1 or more.
        threat: of a recipe given by name, and of test attacks without one; alone, its box is the data's. Or
            several, as `PGDTraining` takes them.
        batch_size: images of a step, 1 or more; None is that of a DataLoader, otherwise 128.
        optimizer: "sgd", "nesterov", "adam" or "adamw". A function of groups of parameters that makes one,
            such as partial(torch.optim.RMSprop, lr=0.01), has its own momentum and weight decay.
        learning_rate: above 0; None is 0.05 for "sgd" and "nesterov", 1e-3 for "adam" and "adamw", and a
            function's own.
        augment: a name in `fa.train.augment.AUGMENTS`, a function (x, `*`, ids, seed) -> x, or several of
            them in their order, on the model's device. None leaves the images as they are.
        test_set: the set on which accuracies are measured; None measures none.
        test_attacks: as `fa.evaluate` takes attacks, for the accuracies under attack; or "screen", the
            version of `autoattack` of that name, in the threat of the recipe unless `threat` is given.
        run_dir: a folder for checkpoint.safetensors, report.jsonl, best.safetensors (the weights of the best
            epoch so far, where there are test attacks), and at the end model.safetensors (with ema also
            ema.safetensors); weights come with a card. It is locked while the run lasts. None writes nothing.
        resume: continue a stopped run of `run_dir` where it was, bit for bit (on a GPU as far as its kernels
            are deterministic); `reports(run_dir)` gives all epochs. A run without a checkpoint starts from
            the beginning. With more `epochs` a finished run goes on, and its schedule is from then on that of
            all of them: one that had ended near 0, as "cosine", rises again.
        identity: a text that represents the code of your own model, recipe, schedule and augmentation.
            Without it a folder knows them by their source, and the model by its logits of 16 samples; it
            refuses a lambda, and a function that holds objects. A set is known by its first and last samples
            and some between.
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
        It prints as a table.

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
    # so far the arguments are all that is local
    return Reports(begun(Job(**locals())).go())


def epochs(
    model: nn.Module,
    train_set: Dataset[Any],
    recipe: Recipe | OwnStep | Callable[..., Tensor] | str,
    **options: Any,
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
    check_known("epochs", options, inspect.signature(fit).parameters)
    bound = inspect.signature(fit).bind(model, train_set, recipe, **options)
    bound.apply_defaults()
    return Epochs(begun(Job(**bound.arguments)))
