"""The options of `fastadv train` in groups, and what `fit` takes of each."""

from dataclasses import fields
from typing import Any, Literal

from fastadv.cli import _options as o
from fastadv.cli._output import note
from fastadv.cli._panels import Panel
from fastadv.cli._recipes import AUGMENT_HELP, RAMP_HELP, parse_ramp, parse_schedule
from fastadv.cli._shared import Machine, TrainImages, load_data
from fastadv.data import HeldOut, hold_out, is_named
from fastadv.train import Ending, Execution, Optimization
from fastadv.train.optim import LEARNING_RATES
from fastadv.train.options import ACTIONS, PRECISIONS
from fastadv.train.schedules import DEFAULT, SCHEDULES

TEST_SAMPLES = 1000

ScheduleBy = Literal["step", "epoch"]
Action = Literal[*ACTIONS]  # type: ignore[valid-type]
Precision = Literal[*PRECISIONS]  # type: ignore[valid-type]


class TrainingImages(TrainImages):
    test_data: str | None = o.option(
        None, "Data set to test on after each epoch; by default the test split of --data."
    )
    test_samples: int | None = o.count(
        None, f"Test on N samples, chosen as by --samples; {TEST_SAMPLES} by default."
    )
    test_every: int = o.count(1, "Epochs from one test to the next; the last epoch is always tested.")
    validation: int | None = o.count(
        None, "Hold out N training images, of all classes by --seed; the best epoch is chosen by them."
    )
    augment: str = o.option("none", AUGMENT_HELP, metavar="NAME+NAME")

    def to_train_on(self, seed: int) -> tuple[Any, HeldOut | None]:
        dataset = self.load()
        if self.validation is None:
            return dataset, None
        if self.validation >= len(dataset):
            o.refuse(f"--validation: expected fewer than the {len(dataset)} images, got {self.validation}.")
        held_out = hold_out(dataset, self.validation, seed)
        return held_out.rest, held_out

    def to_test_on(self) -> Any:
        if self.test_data is None and not is_named(self.data):
            if self.test_samples is not None:
                o.refuse(f"--test-samples has no effect: {self.data} has no test split; name --test-data.")
            note(f"{self.data} has no test split: name one with --test-data to see accuracies")
            return None
        samples = self.test_samples or TEST_SAMPLES
        return load_data(self.test_data or self.data, None, self.data_dir, samples, size=self.size)


class Optimizing(Panel, title="Optimization"):
    epochs: o.Epochs = 10
    batch_size: o.BatchSize = 128
    drop_last: bool = o.option(False, "Leave out the images that do not fill a step.", "--drop-last")
    optimizer: str = o.option("sgd", f"{', '.join(LEARNING_RATES)}.")
    learning_rate: float | None = o.option(
        None, ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items()) + "."
    )
    weight_decay: float = o.option(5e-4, "Weight decay of the optimizer.")
    momentum: float = o.option(0.9, "Momentum of SGD; the first beta of Adam.")
    norm_decay: bool = o.option(
        True, "Weight decay also on biases and normalization.", "--norm-decay/--no-norm-decay"
    )
    schedule: str = o.option(
        DEFAULT, f"How the learning rate changes: {', '.join(SCHEDULES)}; or cyclic:peak=0.3.",
        metavar="NAME:KEY=VALUE",
    )  # fmt: skip
    schedule_by: ScheduleBy = o.option("step", "Whether it changes after each step or after each epoch.")
    warm_up: float | None = o.number(None, "Epochs in which the learning rate rises linearly.")
    batch_norm_momentum: float | None = o.number(None, "Momentum of BatchNorm's running statistics: 0.01.")
    clip_norm: float | None = o.number(None, "Clip the norm of all gradients together to this.")
    max_norm: float | None = o.number(
        None, "Clip the norm of the weights into each unit to this: 1.9365 for maxout."
    )
    ramp: str | None = o.option(None, RAMP_HELP, metavar="EPOCHS")
    ema: float | None = o.number(
        None, "Decay of a moving average of the weights, which is also tested and kept: 0.9995."
    )

    def optimization(self) -> Optimization:
        parsed: dict[str, Any] = {"schedule": parse_schedule(self.schedule), "warm_up": self.warm_up or 0.0}
        parsed["ramp"] = None if self.ramp is None else parse_ramp(self.ramp)
        return Optimization(**{each.name: getattr(self, each.name) for each in fields(Optimization)} | parsed)


class EndingOptions(Panel, title="Ending"):
    patience: int | None = o.count(
        None, "Stop after this many epochs without improvement in robust accuracy."
    )
    on_alarm: Action = o.option(
        "warn", "When robustness collapses or keeps falling: warn, stop, or rewind to the best weights."
    )

    def ending(self) -> Ending:
        return Ending(patience=self.patience, on_alarm=self.on_alarm)


class Executing(Machine):
    precision: Precision | None = o.option(None, "fp32, the default; or bf16, under autocast.")
    workers: int | None = o.option(None, "Processes that read image folders; they change no result.", min=0)
    compile: bool = o.option(False, "Run model and search through torch.compile.", "--compile")

    def execution(self) -> Execution:
        return Execution(
            precision=self.precision or "fp32", workers=self.workers, compile=self.compile or None
        )
