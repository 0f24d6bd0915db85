"""What a training run reports: one line for each epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike

from fastadv.errors import CorruptFileError
from fastadv.runs.record import read_report


@dataclass(frozen=True)
class EpochReport:
    """The report of one epoch.

    Attributes:
        epoch: its number, from 1.
        loss: the mean training loss.
        clean_accuracy: on the test set; None without one.
        robust_accuracy: on the test set, under each test attack by its name; {} without any.
        learning_rate: of the epoch's last step.
        seconds: elapsed time of the epoch, with its tests.
        ema_clean_accuracy: that of the averaged weights, where `ema` is on.
        ema_robust_accuracy: that of the averaged weights.
        own_accuracy: on the examples that the recipe crafts from the first 512 images that judge the run.
        alarm: what is wrong and what to do; None where nothing is.
        validation_clean_accuracy: on the validation set.
        validation_robust_accuracy: on the validation set.
        validation_ema_clean_accuracy: of the averaged weights.
        validation_ema_robust_accuracy: of the averaged weights.
        tested: whether accuracies were measured in this epoch; see `Measuring`.
    """

    epoch: int
    loss: float
    clean_accuracy: float | None
    robust_accuracy: dict[str, float]
    learning_rate: float
    seconds: float
    ema_clean_accuracy: float | None = None
    ema_robust_accuracy: dict[str, float] = field(default_factory=dict)
    own_accuracy: float | None = None
    alarm: str | None = None
    validation_clean_accuracy: float | None = None
    validation_robust_accuracy: dict[str, float] = field(default_factory=dict)
    validation_ema_clean_accuracy: float | None = None
    validation_ema_robust_accuracy: dict[str, float] = field(default_factory=dict)
    tested: bool = True

    def __repr__(self) -> str:
        known = {k: v for k, v in vars(self).items() if v not in (None, {}) and v is not True}
        told = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in known.items())
        return f"EpochReport({', '.join(told)})"

    @property
    def lowest(self) -> float:
        """Accuracy under the strongest attack, on the validation set where there is one; -1 without any."""
        robust = self.validation_robust_accuracy or self.robust_accuracy
        return min(robust.values(), default=-1.0)

    @property
    def judged(self) -> float:
        """The same for the averaged weights where there are any: the best epoch is chosen by it."""
        validated = bool(self.validation_robust_accuracy)
        averaged = self.validation_ema_robust_accuracy if validated else self.ema_robust_accuracy
        return min(averaged.values(), default=self.lowest)


def comparable(past: Sequence[EpochReport]) -> list[EpochReport]:
    """Return the last report that was tested and those before it with the same attacks; none without."""

    def measured(report: EpochReport) -> list[set[str]]:
        kinds = ("", "ema_", "validation_", "validation_ema_")
        return [set(getattr(report, f"{kind}robust_accuracy")) for kind in kinds]

    past = [report for report in past if report.tested]
    if not past or past[-1].lowest < 0:
        return []
    return [report for report in past if measured(report) == measured(past[-1])]


def best(past: Sequence[EpochReport]) -> EpochReport | None:
    """Return the first of the reports with the best accuracy under attack; None without attacks."""
    return max(comparable(past), key=lambda report: report.judged, default=None)


def reports(run_dir: str | PathLike[str]) -> list[EpochReport]:
    """Read all reports of a run so far, from its report.jsonl.

    Args:
        run_dir: the folder of the run.

    Returns:
        The list of `EpochReport`, one for each epoch.

    Raises:
        InputError: the folder holds no report.
        CorruptFileError: a line of it is damaged.
    """
    try:
        return [EpochReport(**entry) for entry in read_report(run_dir)]
    except TypeError as error:
        raise CorruptFileError(
            f"{run_dir}: expected the reports of a training run, got others ({error}); check its name"
        ) from error
