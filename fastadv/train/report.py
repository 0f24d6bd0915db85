"""What a training run reports: one line for each epoch."""

from dataclasses import dataclass
from os import PathLike

from fastadv._run_record import read_report
from fastadv.errors import CorruptFileError


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


def reports(run_dir: str | PathLike[str]) -> list[EpochReport]:
    """All reports of a run so far, from its report.jsonl."""
    try:
        return [EpochReport(**entry) for entry in read_report(run_dir)]
    except TypeError as error:
        raise CorruptFileError(
            f"{run_dir}: expected the reports of a training run, got others ({error}); check its name"
        ) from error
