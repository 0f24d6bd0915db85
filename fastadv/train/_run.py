"""A training run in motion: its epochs, its checkpoints, what it leaves behind."""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv import _checkpoint as checkpoint
from fastadv import rng
from fastadv._card import card
from fastadv._files import atomic_write
from fastadv.data import batches
from fastadv.errors import InputError
from fastadv.evaluation import Attack, evaluate
from fastadv.models import save_weights
from fastadv.train._identity import describe_set
from fastadv.train._layout import bears_channels_last, set_layout
from fastadv.train.augment import Augment
from fastadv.train.recipes import Recipe

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


def check_labels(y: Tensor, classes: int) -> None:
    if y.min() < 0 or y.max() >= classes:
        raise InputError(
            f"train_set: expected labels from 0 to {classes - 1}, as the model has {classes} classes, "
            f"got {int(y.min())} to {int(y.max())}; give the model more classes or map the labels"
        )


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
class Run:
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
    progress: Callable[[int, int], None] | None
    test: Test
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
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            for leftover in self.folder.glob(".*.part"):  # files that a kill left half written
                leftover.unlink(missing_ok=True)
        if not self.path.exists():
            return
        if not resume:
            raise InputError(
                f"run_dir: expected a new folder, got {self.folder} with a checkpoint; pass resume=True or choose another"
            )
        tensors, state = checkpoint.load(self.path, self.config)
        checkpoint.restore(tensors, state, self.model, self.optimizer, self.scheduler)
        progress = state["progress"]
        self.done = [EpochReport(**report) for report in progress["reports"]]
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.losses.copy_(tensors["losses"])
        logger.info("resumed %s at epoch %d, step %d", self.path, len(self.done) + 1, self.step)

    def go(self) -> Iterator[EpochReport]:
        """Train the epochs still to do; the caller works between two of them, under its own modes and grad mode."""
        self._write_reports()
        left = range(len(self.done), self.epochs)
        faster = bool(left) and self._bears_channels_last()
        if faster:
            set_layout(self.model, self.optimizer, torch.channels_last)
        try:
            for _ in left:
                yield self._epoch()
        finally:
            if (
                faster and not sys.is_finalizing()
            ):  # a run left halfway ends with the interpreter, when torch is half gone
                set_layout(self.model, self.optimizer, torch.contiguous_format)
        if (
            self.folder is not None
            and self.done
            and (left or not (self.folder / "model.safetensors").exists())
        ):
            about = card(
                "model",
                {**self.config, "data": describe_set(self.train_set)},
                **dataclasses.asdict(self.done[-1]),
            )
            path = self.folder / "model.safetensors"
            with checkpoint.writing(path):
                save_weights(self.model, path, about)

    def _bears_channels_last(self) -> bool:
        device = self.losses.device
        if device.type == "cuda" and self.precision != "bf16":
            return False  # without tensor cores the usual layout is the faster one
        x, _, _ = next(batches(self.train_set, 2))
        return bears_channels_last(self.model, x.to(device))

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
        attack_seed, augment_seed = (
            rng.derive(self.seed, purpose, epoch) for purpose in ("attack", "augment")
        )
        rate = self.optimizer.param_groups[0]["lr"]
        started = time.perf_counter()
        for x, y, ids in batches(self.train_set, self.batch_size, order=order):
            if (
                not y.is_cuda
            ):  # labels on the device belong to an ImageSet and are checked; looking again would wait for it
                check_labels(y, self.classes)
            if self.augment is not None:
                x = self.augment(x, ids=ids, seed=augment_seed)
            x, y, ids = (tensor.to(device, non_blocking=True) for tensor in (x, y, ids))
            rate = self.optimizer.param_groups[0]["lr"]
            with _seeded(rng.derive(self.seed, "torch", epoch, self.step), device):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    loss = self.recipe(self.model, x, y, ids=ids, seed=attack_seed)
                if loss.ndim:
                    raise InputError(
                        f"recipe: expected one number, the mean loss of the batch, got shape {tuple(loss.shape)}; average it"
                    )
                self.losses[self.step] = loss.detach().double() * (len(y) / size)
                if (self.step + 1) % look_every == 0:
                    self._check_losses(epoch)
                self.optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
            self.optimizer.step()
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

    def _check_losses(self, epoch: int) -> None:
        bad = (~torch.isfinite(self.losses)).nonzero()
        if len(bad):
            kept = (
                f"; the checkpoint of epoch {epoch - 1} stays in {self.folder}"
                if self.folder and epoch > 1
                else ""
            )
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
                part.write_text(
                    "".join(json.dumps(dataclasses.asdict(report)) + "\n" for report in self.done)
                )
