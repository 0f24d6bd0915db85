"""fit: a model trained on a recipe, one report per epoch."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv.data import batches
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import Attack
from fastadv.evaluation.measure import check_evaluation
from fastadv.train._identity import describe, describe_data, describe_model
from fastadv.train._run import EpochReport, Run, Test, check_labels
from fastadv.train.augment import Augment, make_augment
from fastadv.train.optim import LEARNING_RATES, Schedule, make_optimizer, make_schedule
from fastadv.train.recipes import Recipe, twin


def fit(
    model: nn.Module,
    train_set: Dataset[Any],
    recipe: Recipe,
    *,
    epochs: int,
    run_dir: str | PathLike[str] | None = None,
    resume: bool = False,
    batch_size: int = 128,
    optimizer: str = "sgd",
    learning_rate: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str | Schedule = "constant",
    augment: str | Augment | None = None,
    precision: str = "fp32",
    test_set: Dataset[Any] | None = None,
    test_attacks: Mapping[str, Attack] | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint_every: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[EpochReport]:
    """Train the caller's model in place on `recipe`, and yield a report after every epoch.

    - learning_rate: 0.05 for "sgd", 1e-3 for "adam" when not given; schedule: "constant", "step" (a tenth after each third), "cosine",
      "cyclic" (up to two fifths, then down to 0) or a function of the share of training done. momentum is Adam's first beta.
    - augment: "crop_flip", "shift" or a function (x, *, ids, seed) -> x. precision "bf16" runs the recipe under autocast.
    - test_set, test_attacks ({name: attack}, see `fa.evaluate`) and test_limit (its first images): the accuracies in the reports.
    - run_dir: receives checkpoint.safetensors (each epoch, and each `checkpoint_every` steps), report.jsonl, and at the end
      model.safetensors with its card. With resume=True a run that stopped goes on where it was, bit for bit (on a GPU as far as its
      kernels are deterministic), and yields the epochs still to do; `reports(run_dir)` gives all. Without a checkpoint it starts.
      With the constant schedule a larger `epochs` makes a finished run longer.
    - progress: called with (steps done, steps of the whole run) after every step.

    On the CPU, and with bf16, weights are channels-last between the first report and the last, where the model bears it.
    Order, attacks, augmentation and dropout are keyed by (seed, epoch, step, sample id): the global random state is neither used
    nor moved. A model in eval mode is trained in train mode and then set back; in a model in train mode, submodules that the caller
    put in eval mode stay so. Raises InputError at once for arguments that cannot work, FloatingPointError for a loss that is not
    finite (the last checkpoint stays), OSError when a file cannot be written, CorruptFileError for a damaged checkpoint.
    """
    if epochs < 1 or batch_size < 1 or (checkpoint_every is not None and checkpoint_every < 1):
        asked = f"epochs={epochs}, batch_size={batch_size}, checkpoint_every={checkpoint_every}"
        raise InputError(f"fit: expected epochs, batch_size and checkpoint_every of at least 1, got {asked}")
    if seed < 0:
        raise InputError(f"seed: expected a number of at least 0, got {seed}")
    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision: expected 'fp32' or 'bf16', got {precision!r}")
    if test_attacks and test_set is None:
        raise InputError("test_attacks: expected a test_set to attack, got None; pass test_set=")
    if test_set is not None:
        check_evaluation(test_set, test_attacks or {}, 1, test_limit)
    if run_dir is None and (resume or checkpoint_every):
        raise InputError(
            "run_dir: expected a folder for the checkpoints, got None; pass run_dir=, or leave out resume and checkpoint_every"
        )
    if len(train_set) == 0:  # type: ignore[arg-type]
        raise InputError("train_set: expected at least one image, got an empty data set")
    if optimizer not in LEARNING_RATES:
        raise InputError(f"optimizer: expected one of {sorted(LEARNING_RATES)}, got {optimizer!r}")
    rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
    if not (0 < rate < math.inf and 0 <= momentum < 1 and 0 <= weight_decay < math.inf):
        asked = f"learning_rate={rate}, momentum={momentum}, weight_decay={weight_decay}"
        raise InputError(
            f"fit: expected learning_rate > 0, 0 <= momentum < 1 and weight_decay >= 0, got {asked}"
        )

    if device is not None:
        model.to(device)
    maker = make_optimizer(model, optimizer, rate, momentum, weight_decay)
    steps = math.ceil(len(train_set) / batch_size)  # type: ignore[arg-type]
    run = Run(
        model=model,
        train_set=train_set,
        recipe=recipe,
        optimizer=maker,
        scheduler=make_schedule(maker, schedule, epochs * steps),
        augment=make_augment(augment),
        classes=_count_classes(model, train_set),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        precision=precision,
        seed=seed,
        checkpoint_every=checkpoint_every,
        progress=progress,
        test=Test(test_set, dict(test_attacks or {}), test_limit),
        folder=None if run_dir is None else Path(run_dir),
        losses=_zeros(steps, next(model.parameters()).device),
    )
    if run.folder is not None:
        # the constant schedule does not depend on the length of the run, so such a run may be made longer
        length = None if schedule == "constant" else epochs
        run.config = {
            "model": describe_model(model),
            "data": describe_data(train_set),
            "recipe": describe(recipe),
            **describe(
                {
                    "epochs": length,
                    "batch_size": batch_size,
                    "optimizer": optimizer,
                    "learning_rate": float(rate),
                }
            ),
            **describe(
                {"momentum": float(momentum), "weight_decay": float(weight_decay), "schedule": schedule}
            ),
            **describe({"augment": run.augment, "precision": precision, "seed": seed}),
        }
        run.open(resume)
    return run.go()


def reports(run_dir: str | PathLike[str]) -> list[EpochReport]:
    """All reports of a run so far, from its report.jsonl."""
    path = Path(run_dir) / "report.jsonl"
    try:
        return [EpochReport(**json.loads(line)) for line in path.read_text().splitlines()]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: expected the reports of a training run, found no such file; check the folder's name"
        ) from error
    except (ValueError, TypeError) as error:
        raise CorruptFileError(
            f"{path}: expected one report per line, got {error}; resume the run to write it again"
        ) from error


def _count_classes(model: nn.Module, train_set: Dataset[Any]) -> int:
    """Classes the model gives, from one image; the labels the data set holds in memory are checked against them."""
    x, _, _ = next(batches(train_set, 1))
    logits = twin(model)(x.to(next(model.parameters()).device))
    labels = getattr(train_set, "labels", None)
    if isinstance(labels, Tensor):
        check_labels(labels, logits.shape[1])
    return logits.shape[1]


def _zeros(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the caller may be in it, and its tensors could not be written outside
        return torch.zeros(count, dtype=torch.float64, device=device)
