"""When training ends, and with which weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.train.report import EpochReport, best

ACTIONS = ("warn", "stop", "rewind")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """When training ends before its last epoch, and with which weights; it needs `test_attacks`.

    Args:
        patience: epochs, 1 or more, without a better accuracy under attack (the lowest of the attacks', with
            ema that of the averaged weights) after which training ends. The model then has the best epoch's
            weights, also where training reaches its end. None trains to the end, and keeps the last weights.
        on_alarm: accuracy under attack that collapses (catastrophic overfitting), or falls while the training
            loss keeps falling (robust overfitting), is logged as a warning and reported. "warn" continues,
            "stop" also ends training, "rewind" ends it with the best epoch's weights in the model.
    """

    patience: int | None = None
    on_alarm: str = "warn"

    def __post_init__(self) -> None:
        if self.patience is not None:
            check_count("patience", self.patience, 1)
        if self.on_alarm not in ACTIONS:
            raise InputError(f"on_alarm: expected one of {', '.join(ACTIONS)}, got {self.on_alarm!r}")

    @property
    def may_rewind(self) -> bool:
        """Whether the best weights may be needed."""
        return self.patience is not None or self.on_alarm == "rewind"


def check_ending(ending: Ending, attacked: bool) -> None:
    """Raise InputError for an ending by robustness where none is measured."""
    if not attacked and ending != Ending():
        raise InputError(
            "test_attacks: expected an attack to measure robustness by, got none; pass test_set= (or "
            "validation_set=) and test_attacks=, or leave out patience and on_alarm"
        )


def is_over(ending: Ending, past: Sequence[EpochReport], epochs: int) -> bool:
    """Return whether a run of so many epochs ends after those reported."""
    if not past:
        return False
    top, last = best(past), past[-1]
    waited = last.epoch - top.epoch if top is not None and last.tested else 0
    tired = ending.patience is not None and waited >= ending.patience
    alarmed = ending.on_alarm != "warn" and last.alarm is not None
    return last.epoch >= epochs or tired or alarmed


def rewinds(ending: Ending, past: Sequence[EpochReport]) -> bool:
    """Return whether a run that ends here ends with the best weights."""
    return ending.patience is not None or (ending.on_alarm == "rewind" and past[-1].alarm is not None)
