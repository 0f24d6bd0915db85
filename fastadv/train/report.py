"""What a training run reports: one line for each epoch; and what goes wrong, noticed in the reports."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike

from fastadv.errors import CorruptFileError
from fastadv.runs.checkpoint import read_report
from fastadv.text import Cells, Printable, percent


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
        own_accuracy: on the examples that the recipe crafts from the first 512 images that judge the run, of
            several threats the share that is right on all of a sample.
        alarm: what is wrong and what to do; None where nothing is.
        validation_clean_accuracy: on the validation set.
        validation_robust_accuracy: on the validation set.
        validation_ema_clean_accuracy: of the averaged weights.
        validation_ema_robust_accuracy: of the averaged weights.
        tested: whether accuracies were measured in this epoch; see `Measuring`.
        worst_recall: the share that is right of the class with the lowest one, of clean images of the test
            set; None without one, and of other outputs than classes.
        ema_worst_recall: that of the averaged weights.
        validation_worst_recall: on the validation set.
        validation_ema_worst_recall: of the averaged weights.
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
    worst_recall: float | None = None
    ema_worst_recall: float | None = None
    validation_worst_recall: float | None = None
    validation_ema_worst_recall: float | None = None

    def __repr__(self) -> str:
        known = {k: v for k, v in vars(self).items() if v not in (None, {}) and v is not True}
        texts = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in known.items())
        return f"EpochReport({', '.join(texts)})"

    def cells(self) -> dict[str, str]:
        """Return the figures as text, by the names of their columns."""
        shares = {"accuracy": self.clean_accuracy, "worst class": self.worst_recall, **self.robust_accuracy}
        if self.ema_clean_accuracy is not None:
            shares |= {"EMA accuracy": self.ema_clean_accuracy}
            shares |= {f"EMA {name}": share for name, share in self.ema_robust_accuracy.items()}
        averaged = {f"EMA {name}": share for name, share in self.validation_ema_robust_accuracy.items()}
        held_out = averaged or self.validation_robust_accuracy
        shares |= {f"{name} on validation": share for name, share in held_out.items()}
        row = {"epoch": str(self.epoch), "loss": f"{self.loss:.4f}"}
        row |= {name: percent(share) for name, share in shares.items()}
        return row | {"learning rate": f"{self.learning_rate:.2g}", "seconds": f"{self.seconds:.1f}"}

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


class Reports(Printable, list[EpochReport]):
    """The reports of a run in their order: a list that prints as a table."""

    def contents(self) -> list[str | Cells]:
        if not self:
            return ["no epoch was trained"]
        return [self.cells(), *self.alarms]

    @property
    def alarms(self) -> list[str]:
        """What went wrong, by epoch."""
        return [f"epoch {report.epoch}: {report.alarm}" for report in self if report.alarm]

    def cells(self) -> list[list[str]]:
        """Return the table as text, with the columns of the last epoch, which is always tested."""
        rows = [report.cells() for report in self]
        head = list(rows[-1])
        return [head, *([row.get(name, percent(None)) for name in head] for row in rows)]


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


def reports(run_dir: str | PathLike[str]) -> Reports:
    """Read all reports of a run so far, from its report.jsonl.

    Args:
        run_dir: the folder of the run.

    Returns:
        The list of `EpochReport`, one for each epoch, which prints as a table.

    Raises:
        InputError: the folder holds no report.
        CorruptFileError: a line of it is damaged.
    """
    try:
        return Reports(EpochReport(**entry) for entry in read_report(run_dir))
    except TypeError as error:
        raise CorruptFileError(
            f"{run_dir}: expected the reports of a training run, got others ({error}); check its name"
        ) from error


CATASTROPHIC, ROBUST = "catastrophic overfitting", "robust overfitting"
LASTING = 3  # epochs after which a fall counts
LEAST = 0.02  # a smaller loss of accuracy is no fall
CLASSIFIED = 0.25  # accuracy on the recipe's own examples that is above chance with ten classes
MASKED = 0.02  # robust accuracy below this share of that on the recipe's own examples counts as zero

ADVICE = {
    CATASTROPHIC: "resume from the best weights with a smaller step size or radius, with n-fgsm, or with "
    "several steps",
    ROBUST: "keep the weights of that epoch (patience, on_alarm), or train with ema, AWP, label smoothing or "
    "more data",
}


def alarm(past: Sequence[EpochReport], tested: int) -> str | None:
    """Describe what the last report shows, each kind once in a run: its name, what was seen, what to do."""
    # a difference that chance explains among the images `tested` is no fall
    # Wong, Rice, Kolter 2020 (arXiv 2001.03994), section 5.2; Rice, Wong, Kolter 2020 (arXiv 2002.11569)
    said = {report.alarm.partition(":")[0] for report in past if report.alarm}
    *before, now = comparable(past) or past
    if not before or now.lowest < 0 or CATASTROPHIC in said:
        return None
    text = _collapsed(before, now, tested) or _never_rose(before[-1], now)
    if text:
        return f"{CATASTROPHIC}: {text}; {ADVICE[CATASTROPHIC]}"
    text = _fell(before, now, tested) if ROBUST not in said else None
    return f"{ROBUST}: {text}; {ADVICE[ROBUST]}" if text else None


def _collapsed(before: Sequence[EpochReport], now: EpochReport, tested: int) -> str | None:
    best = max(before, key=lambda report: report.lowest)
    chance = 3 * _deviation(best.lowest, now.lowest, tested)
    if now.lowest >= best.lowest / 2 or best.lowest - now.lowest <= chance:
        return None
    first, last = best.own_accuracy, now.own_accuracy
    if first is not None and last is not None:
        hides, why = last >= first, f"that on the recipe's own examples rose from {first:.1%} to {last:.1%}"
    else:
        hides = now.loss <= best.loss
        why = f"the recipe's own loss fell from {best.loss:.3g} to {now.loss:.3g}"
    return f"{_fall(best.epoch, best.lowest, now.lowest)}, while {why}" if hides else None


def _never_rose(before: EpochReport, now: EpochReport) -> str | None:
    crafted = [report.own_accuracy or 0.0 for report in (before, now)]
    if min(crafted) < CLASSIFIED or before.lowest >= MASKED * crafted[0] or now.lowest >= MASKED * crafted[1]:
        return None
    return f"accuracy under attack is {now.lowest:.1%}, that on the recipe's own examples {crafted[1]:.1%}"


def _fell(before: Sequence[EpochReport], now: EpochReport, tested: int) -> str | None:
    best = max(before, key=lambda report: report.judged)
    last = [*before, now][-LASTING:]
    least = max(LEAST, 2 * _deviation(best.judged, now.judged, tested))
    if len(last) < LASTING or best in last or now.loss >= best.loss:
        return None
    if any(best.judged - report.judged <= least for report in last):
        return None
    return f"{_fall(best.epoch, best.judged, now.judged)}, while the training loss went on falling"


def _fall(epoch: int, best: float, now: float) -> str:
    return f"accuracy under attack fell from {best:.1%} in epoch {epoch} to {now:.1%}"


def _deviation(first: float, second: float, tested: int) -> float:
    """Return the standard deviation of the difference of two shares of so many images."""
    return math.sqrt((first * (1 - first) + second * (1 - second)) / tested)
