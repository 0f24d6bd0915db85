"""A training run: its epochs, its checkpoints and its results."""

import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv import _checkpoint, rng
from fastadv._card import card
from fastadv._description import describe_set
from fastadv._run_folder import RunFolder
from fastadv.data import batches
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import Attack, evaluate
from fastadv.models import save_weights
from fastadv.models.weights import read_weights
from fastadv.train._layout import allows_channels_last, set_layout
from fastadv.train.augment import Augment
from fastadv.train.recipes import OwnStep, Recipe, Step
from fastadv.train.recipes.base import take_step

logger = logging.getLogger("fastadv")

CHECK_EVERY = 64  # steps between two checks of the losses on a GPU, where each check waits for the device


@dataclass(frozen=True)
class EpochReport:
    """One epoch: its number from 1, mean training loss, accuracies on the test set, seconds.

    Without a test set the accuracies are None and {}. learning_rate: of the epoch's last step.
    """

    epoch: int
    loss: float
    clean_accuracy: float | None
    robust_accuracy: dict[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Test:
    """What is measured after each epoch."""

    data: Dataset[Any] | None
    attacks: dict[str, Attack]
    limit: int | None

    def __call__(self, model: nn.Module) -> tuple[float | None, dict[str, float]]:
        if self.data is None:
            return None, {}
        table = evaluate(model, self.data, self.attacks, limit=self.limit)
        return table.clean_accuracy, {row.name: row.robust_accuracy for row in table.rows}


def check_labels(y: Tensor, classes: int, name: str = "train_set") -> None:
    """InputError unless the labels `y` of the data set `name` are classes of the model."""
    if y.min() < 0 or y.max() >= classes:
        raise InputError(
            f"{name}: expected labels from 0 to {classes - 1}, as the model has {classes} classes, "
            f"got {int(y.min())} to {int(y.max())}; give the model more classes or map the labels"
        )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Key torch's random numbers, such as dropout's, by `seed`, and restore the caller's state afterwards."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # not torch.manual_seed, which would also seed the devices that are not forked
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@dataclass
class Run:
    """A training run: what it is made of, and where it stands."""

    model: nn.Module
    train_set: Dataset[Any]
    recipe: Recipe | OwnStep
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
    progress: Callable[[int, int], None] | None
    test: Test
    losses: Tensor  # [steps] of this epoch, float64, each weighted by its share of the samples
    config: dict[str, Any]  # what the run is, for its checkpoint and card
    folder: RunFolder | None = None
    done: list[EpochReport] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    state: dict[str, Tensor] = field(default_factory=dict)  # what the recipe keeps between batches

    def open(self, run_dir: str | PathLike[str], resume: bool) -> None:
        """Open the folder, and continue where its checkpoint was written."""
        self.folder = RunFolder(run_dir)
        try:
            state = self.folder.stopped(self.config, resume)
            if state is not None:
                self._restore(state)
        except BaseException:
            self.folder.close()
            raise

    def _restore(self, state: _checkpoint.State) -> None:
        past, step = len(state.progress["reports"]), state.progress["step"]
        if past + (step > 0) > self.epochs:
            raise InputError(
                f"epochs: expected at least the {past + (step > 0)} that the checkpoint has begun, "
                f"got {self.epochs}; ask for more or choose another folder"
            )
        _checkpoint.restore(state, self.model, self.optimizer, self.scheduler)
        self.done = [EpochReport(**report) for report in state.progress["reports"]]
        self.step, self.seconds = state.progress["step"], state.progress["seconds"]
        self.losses.copy_(state.tensors["losses"])
        self.state = _checkpoint.recipe_state(state, self.losses.device)
        logger.info("resumed at epoch %d, step %d", len(self.done) + 1, self.step)

    def go(self) -> Iterator[EpochReport]:
        """Train the epochs still to do; between two of them the caller has the model in its own modes."""
        try:
            self._report()
            left = range(len(self.done), self.epochs)
            if left:
                yield from self._epochs(len(left))
            if self.folder is not None and self.done:
                self._finish(self.folder, trained=bool(left))
        finally:
            if self.folder is not None:
                self.folder.close()

    def _epochs(self, count: int) -> Iterator[EpochReport]:
        channels_last = self._allows_channels_last()
        if channels_last:
            set_layout(self.model, self.optimizer, torch.channels_last)
        try:
            for _ in range(count):
                yield self._epoch()
        finally:
            # a generator that is still open when the interpreter ends finds torch half gone
            if channels_last and not sys.is_finalizing():
                set_layout(self.model, self.optimizer, torch.contiguous_format)

    def _finish(self, folder: RunFolder, trained: bool) -> None:
        """Write the weights with their card; those that a finished run wrote stay as they are."""
        if not trained and self._written(folder.path / "model.safetensors"):
            return
        config = {**self.config, "data": describe_set(self.train_set)}
        with folder.result("model.safetensors") as path:
            save_weights(self.model, path, card("model", config, **dataclasses.asdict(self.done[-1])))

    def _written(self, path: Path) -> bool:
        """Whether the file is whole, and of this epoch: a run that was made longer leaves an older one."""
        try:
            _, about = read_weights(path)
        except (InputError, CorruptFileError):
            return False
        return bool(about.get("measured", {}).get("epoch") == len(self.done))

    def _allows_channels_last(self) -> bool:
        device = self.losses.device
        if device.type == "cuda" and self.precision != "bf16":
            return False  # without tensor cores the contiguous layout is faster
        x, _, _ = next(batches(self.train_set, 2))
        return allows_channels_last(self.model, x.to(device))

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
        clean, robust = self.test(self.model)
        seconds = self.seconds + time.perf_counter() - started
        report = EpochReport(len(self.done) + 1, float(self.losses.sum()), clean, robust, rate, seconds)
        self.done.append(report)
        self.step, self.seconds = 0, 0.0
        self.losses.zero_()
        self._save()
        self._report()
        logger.info("%s", report)
        return report

    def _train(self) -> float:
        """The rest of this epoch's steps; the learning rate of its last one."""
        epoch = len(self.done) + 1
        size = len(self.train_set)  # type: ignore[arg-type]
        device = self.losses.device
        order_seed, attack_seed, augment_seed = (
            rng.derive(self.seed, purpose, epoch) for purpose in ("order", "attack", "augment")
        )
        order = rng.permutation(size, order_seed)[self.step * self.batch_size :]
        rate = self.optimizer.param_groups[0]["lr"]
        started = time.perf_counter()
        for x, y, ids in batches(self.train_set, self.batch_size, order=order):
            # labels on a GPU belong to an ImageSet and are checked; reading them again would wait for it
            if not y.is_cuda:
                check_labels(y, self.classes)
            if self.augment is not None:
                with _seeded(rng.derive(self.seed, "torch augment", epoch, self.step), x.device):
                    x = self.augment(x, ids=ids, seed=augment_seed)
            x, y, ids = (tensor.to(device, non_blocking=True) for tensor in (x, y, ids))
            rate = self.optimizer.param_groups[0]["lr"]
            share = len(y) / size
            at = Step(
                model=self.model,
                optimizer=self.optimizer,
                x=x,
                y=y,
                ids=ids,
                seed=attack_seed,
                epoch=epoch,
                size=size,
                check=partial(self._take, share=share),
                precision=self.precision,
                state=self.state,
            )
            with _seeded(rng.derive(self.seed, "torch", epoch, self.step), device):
                self._take(take_step(self.recipe, at).detach(), share)
            self.scheduler.step()
            self.step += 1
            if self.progress is not None:
                self.progress((epoch - 1) * self.steps + self.step, self.epochs * self.steps)
            if self.checkpoint_every and self.step % self.checkpoint_every == 0 and self.step < self.steps:
                self._check_losses(epoch)
                self._save(self.seconds + time.perf_counter() - started)
        self._check_losses(epoch)
        self.seconds += time.perf_counter() - started
        return float(rate)

    def _take(self, loss: Tensor, share: float) -> None:
        """Write down the loss of this batch, and check it now and then."""
        if loss.ndim:
            raise InputError(
                "recipe: expected one number, the mean loss of the batch, "
                f"got shape {tuple(loss.shape)}; average it"
            )
        self.losses[self.step] = loss.detach().double() * share
        if self.losses.device.type != "cuda" or (self.step + 1) % CHECK_EVERY == 0:
            self._check_losses(len(self.done) + 1)

    def _check_losses(self, epoch: int) -> None:
        bad = (~torch.isfinite(self.losses)).nonzero()
        if len(bad):
            step, rate = int(bad[0]), self.optimizer.param_groups[0]["lr"]
            kept = (
                f"; {self.folder.checkpoint} is kept"
                if self.folder and self.folder.checkpoint.exists()
                else ""
            )
            raise FloatingPointError(
                f"training: expected a finite loss, got {float(self.losses[step])} in epoch {epoch} at step "
                f"{step}; "
                f"lower the learning rate (now {rate:g}) or check the data{kept}"
            )

    def _save(self, seconds: float = 0.0) -> None:
        if self.folder is None:
            return
        past = [dataclasses.asdict(report) for report in self.done]
        progress = {"config": self.config, "reports": past, "step": self.step, "seconds": seconds}
        self.folder.save(self.model, self.optimizer, self.scheduler, self.losses, progress, recipe=self.state)

    def _report(self) -> None:
        if self.folder is not None:
            self.folder.report(dataclasses.asdict(report) for report in self.done)
