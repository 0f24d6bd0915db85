"""A training run: its epochs, its checkpoints and its results."""

import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fastadv import _checkpoint
from fastadv._card import card
from fastadv._description import describe_set
from fastadv._run_record import RunRecord
from fastadv.data import batches
from fastadv.errors import CorruptFileError, InputError
from fastadv.models import save_weights
from fastadv.models.weights import read_weights
from fastadv.train._layout import allows_channels_last, set_layout
from fastadv.train._measure import Test
from fastadv.train._steps import Steps
from fastadv.train.report import EpochReport

logger = logging.getLogger("fastadv")


@dataclass
class Run:
    """A training run: what it does in an epoch, what is kept of it, and where it stands."""

    steps: Steps
    record: RunRecord
    test: Test
    epochs: int
    checkpoint_every: int | None
    progress: Callable[[int, int], None] | None
    step: int = 0  # done in this epoch
    seconds: float = 0.0  # spent on them

    def __post_init__(self) -> None:
        """Continue where the checkpoint was written, if there is one."""
        if self.record.stopped is not None:
            try:
                self._restore(self.record.stopped)
            except BaseException:
                self.record.close()
                raise

    def _restore(self, state: _checkpoint.State) -> None:
        self.step, self.seconds = state.progress["step"], state.progress["seconds"]
        begun = len(self.record.reports) + (self.step > 0)
        if begun > self.epochs:
            raise InputError(
                f"epochs: expected at least the {begun} that the checkpoint has begun, "
                f"got {self.epochs}; ask for more or choose another folder"
            )
        steps = self.steps
        _checkpoint.restore(state, steps.model, steps.optimizer, steps.scheduler)
        losses = steps.losses.values
        losses.copy_(state.tensors["losses"])
        steps.state = _checkpoint.kept(state, "recipe", losses.device)
        logger.info("resumed at epoch %d, step %d", len(self.record.reports) + 1, self.step)

    def go(self) -> Generator[EpochReport, None, None]:
        """Train the epochs still to do; between two of them the caller has the model in its own modes."""
        with self.record:
            self.record.report()
            left = range(len(self.record.reports), self.epochs)
            if left:
                yield from self._epochs(len(left))
            if self.record.reports:
                self._finish(trained=bool(left))

    def _epochs(self, count: int) -> Iterator[EpochReport]:
        model, optimizer = self.steps.model, self.steps.optimizer
        channels_last = self._allows_channels_last()
        if channels_last:
            set_layout(model, optimizer, torch.channels_last)
        try:
            for _ in range(count):
                yield self._epoch()
        finally:
            # a generator that is still open when the interpreter ends finds torch half gone
            if channels_last and not sys.is_finalizing():
                set_layout(model, optimizer, torch.contiguous_format)

    def _allows_channels_last(self) -> bool:
        device = self.steps.losses.values.device
        if device.type == "cuda" and self.steps.precision != "bf16":
            return False  # without tensor cores the contiguous layout is faster
        x, _, _ = next(batches(self.steps.train_set, 2))
        return allows_channels_last(self.steps.model, x.to(device))

    def _epoch(self) -> EpochReport:
        model = self.steps.model
        modes = {module: module.training for module in model.modules()}
        if not model.training:
            model.train()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                self._train()
        finally:
            self.steps.optimizer.zero_grad(set_to_none=True)
            for module, mode in modes.items():
                module.training = mode
        started = time.perf_counter()
        clean, robust = self.test(model)
        report = EpochReport(
            epoch=len(self.record.reports) + 1,
            loss=self.steps.losses.mean,
            clean_accuracy=clean,
            robust_accuracy=robust,
            learning_rate=self.steps.learning_rate,
            seconds=self.seconds + time.perf_counter() - started,
        )
        self.record.reports.append(dataclasses.asdict(report))
        self.step, self.seconds = 0, 0.0
        self.steps.losses.values.zero_()
        self._save()
        self.record.report()
        logger.info("%s", report)
        return report

    def _train(self) -> None:
        """The rest of this epoch's steps."""
        epoch, steps = len(self.record.reports) + 1, len(self.steps.losses.values)
        before, started = self.seconds, time.perf_counter()
        try:
            for done in self.steps.epoch(epoch, self.step):
                self.step, self.seconds = done, before + time.perf_counter() - started
                if self.progress is not None:
                    self.progress((epoch - 1) * steps + self.step, self.epochs * steps)
                if self.checkpoint_every and self.step % self.checkpoint_every == 0 and self.step < steps:
                    self.steps.losses.check()
                    self._save()
        except FloatingPointError as error:
            if self.record.checkpoint is None:
                raise
            raise FloatingPointError(f"{error}; {self.record.checkpoint} is kept") from error

    def _save(self) -> None:
        steps = self.steps
        self.record.save(
            steps.model,
            steps.optimizer,
            steps.scheduler,
            {"losses": steps.losses.values} | {f"recipe/{name}": held for name, held in steps.state.items()},
            step=self.step,
            seconds=self.seconds,
        )

    def _finish(self, trained: bool) -> None:
        """Write the weights with their card; those that a finished run wrote stay as they are."""

        def write(path: Path) -> None:
            if trained or not self._written(path):
                config = {**self.record.config, "data": describe_set(self.steps.train_set)}
                save_weights(self.steps.model, path, card("model", config, **self.record.reports[-1]))

        self.record.result("model.safetensors", write)

    def _written(self, path: Path) -> bool:
        """Whether the file is whole, and of this epoch: a run that was made longer leaves an older one."""
        try:
            _, about = read_weights(path)
        except (InputError, CorruptFileError):
            return False
        return bool(about.get("measured", {}).get("epoch") == len(self.record.reports))
