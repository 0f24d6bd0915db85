"""The training loop: one report per epoch, a checkpoint that resumes bit for bit after a kill at any moment."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv import rng
from fastadv._card import card
from fastadv._files import atomic_write
from fastadv.data import batches
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluate import Attack, evaluate
from fastadv.train import checkpoint
from fastadv.train._identity import derive_seed, describe, describe_data, describe_model
from fastadv.train.augment import Augment, make_augment
from fastadv.train.optim import LEARNING_RATES, Schedule, make_optimizer, make_schedule
from fastadv.train.recipes import Recipe, twin

logger = logging.getLogger("fastadv")

CHECK_EVERY = 64  # steps between two looks at the loss on a GPU, where each look waits for the device


@dataclass(frozen=True)
class EpochReport:
    """One epoch: its number from 1, the mean training loss, accuracies on the test set (None and {} without one), seconds."""

    epoch: int
    loss: float
    clean_accuracy: float | None
    robust_accuracy: dict[str, float]
    learning_rate: float
    seconds: float


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

    Order, attacks, augmentation and dropout are keyed by (seed, epoch, step, sample id): the global random state is neither used
    nor moved. A model in eval mode is trained in train mode and then set back; in a model in train mode, submodules that the caller
    put in eval mode stay so. Raises InputError at once for arguments that cannot work, FloatingPointError for a loss that is not
    finite (the last checkpoint stays), OSError when a file cannot be written, CorruptFileError for a damaged checkpoint.
    """
    if epochs < 1 or batch_size < 1 or (checkpoint_every is not None and checkpoint_every < 1):
        asked = f"epochs={epochs}, batch_size={batch_size}, checkpoint_every={checkpoint_every}"
        raise InputError(f"fit: expected epochs, batch_size and checkpoint_every of at least 1, got {asked}")
    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision: expected 'fp32' or 'bf16', got {precision!r}")
    if test_attacks and test_set is None:
        raise InputError("test_attacks: expected a test_set to attack, got None; pass test_set=")
    if run_dir is None and (resume or checkpoint_every):
        raise InputError("run_dir: expected a folder for the checkpoints, got None; pass run_dir=, or leave out resume and checkpoint_every")
    if len(train_set) == 0:  # type: ignore[arg-type]
        raise InputError("train_set: expected at least one image, got an empty data set")
    if optimizer not in LEARNING_RATES:
        raise InputError(f"optimizer: expected one of {sorted(LEARNING_RATES)}, got {optimizer!r}")
    rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
    if not (0 < rate < math.inf and 0 <= momentum < 1 and 0 <= weight_decay < math.inf):
        asked = f"learning_rate={rate}, momentum={momentum}, weight_decay={weight_decay}"
        raise InputError(f"fit: expected learning_rate > 0, 0 <= momentum < 1 and weight_decay >= 0, got {asked}")

    if device is not None:
        model.to(device)
    maker = make_optimizer(model, optimizer, rate, momentum, weight_decay)
    steps = math.ceil(len(train_set) / batch_size)  # type: ignore[arg-type]
    run = _Run(
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
        test=lambda: _test(model, test_set, test_attacks or {}, test_limit),
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
            **describe({"epochs": length, "batch_size": batch_size, "optimizer": optimizer, "learning_rate": float(rate)}),
            **describe({"momentum": float(momentum), "weight_decay": float(weight_decay), "schedule": schedule}),
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
        raise InputError(f"{path}: expected the reports of a training run, found no such file; check the folder's name") from error
    except (ValueError, TypeError) as error:
        raise CorruptFileError(f"{path}: expected one report per line, got {error}; resume the run to write it again") from error


def _count_classes(model: nn.Module, train_set: Dataset[Any]) -> int:
    """Classes the model gives, from one image; the labels the data set holds in memory are checked against them."""
    x, _, _ = next(batches(train_set, 1))
    logits = twin(model)(x.to(next(model.parameters()).device))
    if logits.ndim != 2 or len(logits) != 1:
        raise InputError(f"model: expected logits [B, K], got shape {tuple(logits.shape)} for one image; return one score per class")
    labels = getattr(train_set, "labels", None)
    if isinstance(labels, Tensor):
        _check_labels(labels, logits.shape[1])
    return logits.shape[1]


def _zeros(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the caller may be in it, and its tensors could not be written outside
        return torch.zeros(count, dtype=torch.float64, device=device)


def _check_labels(y: Tensor, classes: int) -> None:
    if y.min() < 0 or y.max() >= classes:
        raise InputError(
            f"train_set: expected labels from 0 to {classes - 1}, as the model has {classes} classes, "
            f"got {int(y.min())} to {int(y.max())}; give the model more classes or map the labels"
        )


def _test(model: nn.Module, test_set: Dataset[Any] | None, attacks: Mapping[str, Attack], limit: int | None) -> tuple[float | None, dict[str, float]]:
    if test_set is None:
        return None, {}
    table = evaluate(model, test_set, attacks, limit=limit)
    return table.clean_accuracy, {row.name: row.robust_accuracy for row in table.rows}


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers (dropout) keyed by `seed`; the caller's random state comes back afterwards."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # not torch.manual_seed, which would also seed the devices that are not forked
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@dataclass
class _Run:
    """A training run: what it is made of, and where it stands."""

    model: nn.Module
    train_set: Dataset[Any]
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    augment: Augment | None
    classes: int
    batch_size: int
    epochs: int
    steps: int
    precision: str
    seed: int
    checkpoint_every: int | None
    test: Callable[[], tuple[float | None, dict[str, float]]]
    folder: Path | None
    losses: Tensor  # [steps] of this epoch, float64, each weighted by its share of the samples
    config: dict[str, Any] = field(default_factory=dict)
    done: list[EpochReport] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0

    @property
    def path(self) -> Path:
        assert self.folder is not None
        return self.folder / "checkpoint.safetensors"

    def open(self, resume: bool) -> None:
        """Take up the checkpoint in the folder, or make sure that there is none."""
        assert self.folder is not None
        if not self.path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            return
        if not resume:
            raise InputError(f"run_dir: expected a new folder, got {self.folder} with a checkpoint; pass resume=True or choose another")
        tensors, state = checkpoint.load(self.path, self.config)
        checkpoint.restore(tensors, state, self.model, self.optimizer, self.scheduler)
        progress = state["progress"]
        self.done = [EpochReport(**report) for report in progress["reports"]]
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.losses.copy_(tensors["losses"])
        for leftover in self.folder.glob(".*.safetensors.*.part"):
            leftover.unlink(missing_ok=True)
        logger.info("resumed %s at epoch %d, step %d", self.path, len(self.done) + 1, self.step)

    def go(self) -> Iterator[EpochReport]:
        self._write_reports()
        while len(self.done) < self.epochs:
            # the caller works between two epochs, under its own modes and grad mode
            yield self._epoch()
        if self.folder is not None:
            last = dataclasses.asdict(self.done[-1])
            about = card("model", self.config, **last)
            tensors = {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}
            checkpoint.write_tensors(self.folder / "model.safetensors", tensors, {"card": json.dumps(about)})

    def _epoch(self) -> EpochReport:
        modes = {module: module.training for module in self.model.modules()}
        if not self.model.training:
            self.model.train()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                rate = self._train()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            for module, mode in modes.items():
                module.training = mode
        started = time.perf_counter()
        clean, robust = self.test()
        seconds = self.seconds + time.perf_counter() - started
        report = EpochReport(len(self.done) + 1, float(self.losses.sum()), clean, robust, rate, seconds)
        self.done.append(report)
        self.step, self.seconds = 0, 0.0
        self.losses.zero_()
        if self.folder is not None:
            self._save()
            self._write_reports()
        logger.info("%s", report)
        return report

    def _train(self) -> float:
        """The rest of this epoch's steps; the learning rate of its last one."""
        epoch = len(self.done) + 1
        size = len(self.train_set)  # type: ignore[arg-type]
        device = self.losses.device
        look_every = CHECK_EVERY if device.type == "cuda" else 1
        order = rng.permutation(size, self.seed, draw=epoch)[self.step * self.batch_size :]
        attack_seed, augment_seed = (derive_seed(self.seed, purpose, epoch) for purpose in ("attack", "augment"))
        rate = self.optimizer.param_groups[0]["lr"]
        started = time.perf_counter()
        for x, y, ids in batches(self.train_set, self.batch_size, order=order):
            if not y.is_cuda:  # labels on the device belong to an ImageSet and are checked; looking again would wait for it
                _check_labels(y, self.classes)
            if self.augment is not None:
                x = self.augment(x, ids=ids, seed=augment_seed)
            x, y, ids = (tensor.to(device, non_blocking=True) for tensor in (x, y, ids))
            rate = self.optimizer.param_groups[0]["lr"]
            with _seeded(derive_seed(self.seed, "torch", epoch, self.step), device):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    loss = self.recipe(self.model, x, y, ids=ids, seed=attack_seed)
                self.losses[self.step] = loss.detach().double() * (len(y) / size)
                if (self.step + 1) % look_every == 0:
                    self._check_losses(epoch)
                self.optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1
            if self.checkpoint_every and self.step % self.checkpoint_every == 0 and self.step < self.steps:
                self._check_losses(epoch)
                self._save(self.seconds + time.perf_counter() - started)
        self._check_losses(epoch)
        self.seconds += time.perf_counter() - started
        return float(rate)

    def _check_losses(self, epoch: int) -> None:
        bad = (~torch.isfinite(self.losses)).nonzero()
        if len(bad):
            kept = f"; the checkpoint of epoch {epoch - 1} stays in {self.folder}" if self.folder and epoch > 1 else ""
            raise FloatingPointError(
                f"training: expected a finite loss, got {float(self.losses[bad[0]])} in epoch {epoch} at step {int(bad[0])}; "
                f"lower the learning rate (now {self.optimizer.param_groups[0]['lr']:g}) or look at the data{kept}"
            )

    def _save(self, seconds: float = 0.0) -> None:
        past = [dataclasses.asdict(report) for report in self.done]
        progress = {"config": self.config, "reports": past, "step": self.step, "seconds": seconds}
        checkpoint.save(self.path, self.model, self.optimizer, self.scheduler, self.losses, progress)

    def _write_reports(self) -> None:
        # written anew from the checkpoint's list each time: a kill can neither lose nor double a line
        if self.folder is not None:
            with atomic_write(self.folder / "report.jsonl") as part:
                part.write_text("".join(json.dumps(dataclasses.asdict(report)) + "\n" for report in self.done))
