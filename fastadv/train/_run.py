"""A training run: its epochs, one by one as they are asked for, its checkpoints and when it ends."""

import dataclasses
import logging
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv.answers import FIRST_SAMPLES, answers
from fastadv.engine.plain import Plain
from fastadv.errors import InputError, LostProcessError
from fastadv.progress import Progress, Tick, shown, tell
from fastadv.runs import checkpoint, processes
from fastadv.runs.identity import ANSWERS, check_same
from fastadv.train._first_epoch import weak_learning
from fastadv.train._layout import fast_layout
from fastadv.train._results import Results
from fastadv.train._steps import Steps
from fastadv.train.measuring import Measures
from fastadv.train.optim import batch_norms
from fastadv.train.options import Ending
from fastadv.train.recipes import Standard
from fastadv.train.recipes.base import innermost
from fastadv.train.report import EpochReport, alarm, best

logger = logging.getLogger("fastadv")


@contextmanager
def _training(steps: Steps) -> Iterator[None]:
    """Train inside: train mode for a model in eval mode; restore modes and clear gradients afterwards."""
    modes = {module: module.training for module in steps.model.modules()}
    momentum = steps.optimization.batch_norm_momentum
    moving = [] if momentum is None else [(norm, norm.momentum) for norm in batch_norms(steps.model)]
    for norm, _ in moving:
        norm.momentum = momentum
    if not steps.model.training:
        steps.model.train()
    try:
        yield
    finally:
        steps.optimizer.zero_grad(set_to_none=True)
        for norm, before in moving:
            norm.momentum = before
        for module, mode in modes.items():
            module.training = mode


@dataclass
class Run:
    """A training run: what it does in an epoch, what is kept of it, and where it stands."""

    steps: Steps
    results: Results
    measure: Measures
    epochs: int
    ending: Ending
    progress: Progress
    done: list[EpochReport] = dataclasses.field(default_factory=list)
    step: int = 0  # done in this epoch
    seconds: float = 0.0  # spent on them
    tick: Tick | None = None  # shows each step

    def __post_init__(self) -> None:
        """Continue where the checkpoint was written, if there is one."""
        self.record = self.results.record
        if self.record.stopped is not None:
            try:
                self._restore(self.record.stopped)
            except BaseException:
                self.record.close()
                raise

    def _restore(self, state: checkpoint.State) -> None:
        self.done = [EpochReport(**entry) for entry in self.record.reports]
        self.step, self.seconds = state.progress["step"], state.progress["seconds"]
        begun = len(self.done) + (self.step > 0)
        if begun > self.epochs:
            raise InputError(
                f"epochs: expected at least the {begun} that the checkpoint has begun, "
                f"got {self.epochs}; ask for more or choose another folder"
            )
        self.steps.restore(state)
        rate, before = self.steps.optimizer.param_groups[0]["lr"], state.plain["groups"][0]["lr"]
        if rate != before and not processes.rank():
            logger.warning(
                "epochs: the schedule is now that of %d: after %d of them the learning rate is %g, where the "
                "run so far had %g, so this is no run of %d epochs from the start",
                self.epochs, len(self.done), rate, before, self.epochs,
            )  # fmt: skip
        self.results.buffers = checkpoint.kept(state, "best", self.steps.feed.device)
        if self.record.checkpoint is not None:
            check_same(self.record.checkpoint, state.progress["answers"], self._answers())
        logger.info("resumed at epoch %d, step %d", len(self.done) + 1, self.step)

    def go(self) -> Generator[EpochReport, None, None]:
        """Train the epochs still to do; between two of them the caller has the model in its own modes."""
        with self.record, closing(self.steps.feed), shown(self.progress, "training") as self.tick:
            self.record.report()
            if not self.step:
                self.results.keep_best(self.done)  # a kill may have come between checkpoint and best weights
            left = self._is_left()
            if left:
                with fast_layout(self.steps):
                    while self._is_left():
                        yield self._epoch()
            elif not processes.rank():
                logger.warning(
                    "the run in %s is finished: nothing is trained; fa.train.reports(%r) reads its epochs",
                    self.record.path, str(self.record.path),
                )  # fmt: skip
            alarmed = self.ending.on_alarm == "rewind" and self.done[-1].alarm is not None
            self.results.finish(self.done, alarmed or self.ending.patience is not None, again=left)

    def _is_left(self) -> bool:
        # an epoch that was begun is finished, whatever a resumed run now thinks of the one before
        if self.step > 0 or not self.done:
            return True
        top, last, patience = best(self.done), self.done[-1], self.ending.patience
        waited = last.epoch - top.epoch if top is not None and last.tested else 0
        tired = patience is not None and waited >= patience
        alarmed = self.ending.on_alarm != "warn" and last.alarm is not None
        return not (last.epoch >= self.epochs or tired or alarmed)

    def _epoch(self) -> EpochReport:
        steps, epoch = self.steps, len(self.done) + 1
        tested = epoch % self.measure.every == 0 or epoch == self.epochs
        before, started = self.seconds, time.perf_counter()
        with rng.generators_kept(steps.feed.device):
            with torch.inference_mode(False), torch.enable_grad(), _training(steps), self._kept_checkpoint():
                for done in steps.epoch(epoch, self.step):
                    self.step, self.seconds = done, before + time.perf_counter() - started
                    try:
                        self._show(epoch)
                    except KeyboardInterrupt:  # what shows progress may stop a run after a step
                        if processes.world() == 1:
                            self._checkpoint()
                        raise
                    if self._is_due():
                        self._checkpoint()
            started = time.perf_counter()
            measured = self.measure(steps) if tested else {"tested": False}
        report = EpochReport(
            epoch=epoch,
            loss=float(steps.losses.sum()),
            learning_rate=steps.learning_rate,
            seconds=self.seconds + time.perf_counter() - started,
            **{"clean_accuracy": None, "robust_accuracy": {}, **measured},
        )
        # A loss of robustness is a fault of any recipe but standard training
        if tested and not isinstance(innermost(steps.recipe), Standard):
            report = dataclasses.replace(report, alarm=alarm([*self.done, report], self.measure.judge.size))
        # times differ between processes, and where kernels are not deterministic accuracies may
        report = processes.from_first(lambda: report)
        self._keep(report)
        return report

    def _show(self, epoch: int) -> None:
        steps = self.steps.feed.steps
        loss = f", loss of epoch {self.done[-1].epoch} {self.done[-1].loss:.4f}" if self.done else ""
        text = f"epoch {epoch} of {self.epochs}{loss}"
        tell(self.tick, text, (epoch - 1) * steps + self.step, self.epochs * steps)

    def _checkpoint(self) -> None:
        """Write a checkpoint within the epoch."""
        self.steps.check()
        self._save()

    def _is_due(self) -> bool:
        """Return whether a checkpoint is written within the epoch, after this step."""
        every = self.steps.execution.checkpoint_every
        return every is not None and self.step % every == 0 and self.step < self.steps.feed.steps

    @contextmanager
    def _kept_checkpoint(self) -> Iterator[None]:
        """Say in what stops a run which checkpoint is kept."""
        try:
            yield
        except (FloatingPointError, InputError, LostProcessError) as error:
            if self.record.checkpoint is None:
                raise
            raise type(error)(f"{error}; {self.record.checkpoint} is kept") from error

    def _keep(self, report: EpochReport) -> None:
        logger.info("%s", report)
        if report.alarm is not None:
            logger.warning("epoch %d: %s", report.epoch, report.alarm)
        for text in weak_learning(self.steps) if report.epoch == 1 else ():
            logger.warning("%s", text)
        self.done.append(report)
        self.record.reports.append(dataclasses.asdict(report))
        self.step, self.seconds = 0, 0.0
        self.steps.losses.zero_()
        self.results.hold_buffers(self.done)
        self._save()
        self.results.keep_best(self.done)
        self.record.report()
        if self.measure.on_event is not None:
            self.measure.on_event(dataclasses.asdict(report))

    def _save(self) -> None:
        steps = self.steps
        progress = {"step": self.step, "seconds": self.seconds, "answers": self._answers()}
        kept = steps.kept() | {f"best/{name}": buffer for name, buffer in self.results.buffers.items()}
        self.record.save(steps.model, steps.optimizer, steps.scheduler, kept, **progress)

    def _answers(self) -> dict[str, Any]:
        """Return what tells the model, as it is now, from one of other code with the same weights."""
        if self.record.path is None or self.record.config["identity"] is not None:
            return {}
        feed, plain = self.steps.feed, Plain(self.steps.model, outputs=self.steps.criterion.outputs)
        x, _, _ = feed.first(FIRST_SAMPLES)
        return {ANSWERS: answers(plain, x.to(feed.device, feed.dtype))}


class Epochs(Iterator[EpochReport]):
    """The reports of a run: each `next` trains an epoch."""

    def __init__(self, run: Run) -> None:
        self._run, self._reports = run, run.go()

    def __next__(self) -> EpochReport:
        return next(self._reports)

    def averaged(self) -> dict[str, Tensor]:
        """Copy the moving average of the weights so far, as a state dict; InputError without `ema`."""
        steps = self._run.steps
        if steps.average is None:
            raise InputError(
                "ema: expected a run with a moving average, got one without; "
                "pass optimization=Optimization(ema=0.9995)"
            )
        with steps.average.in_model():
            return {name: value.clone() for name, value in steps.model.state_dict().items()}

    def close(self) -> None:
        self._reports.close()
        self._run.record.close()
