"""When training ends, and with which weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.train.report import EpochReport, best

ACTIONS = ("warn", "stop", "rewind")


@dataclass(frozen=True)
class Ending:
    """After `epochs`, when the best epoch is `patience` epochs ago, or on an alarm; checked."""

    epochs: int
    patience: int | None
    on_alarm: str
    attacked: bool  # whether robustness is measured

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs, 1)
        if self.patience is not None:
            check_count("patience", self.patience, 1)
        if self.on_alarm not in ACTIONS:
            raise InputError(f"on_alarm: expected one of {', '.join(ACTIONS)}, got {self.on_alarm!r}")
        if not self.attacked and (self.patience is not None or self.on_alarm != "warn"):
            raise InputError(
                "test_attacks: expected an attack to measure robustness by, got none; pass test_set= (or "
                "validation_set=) and test_attacks=, or leave out patience and on_alarm"
            )

    @property
    def may_rewind(self) -> bool:
        """Whether the best weights may be wanted."""
        return self.patience is not None or self.on_alarm == "rewind"

    def reached(self, past: Sequence[EpochReport]) -> bool:
        """Whether no epoch follows those reported."""
        if not past:
            return False
        top, last = best(past), past[-1]
        tired = self.patience is not None and top is not None and last.epoch - top.epoch >= self.patience
        alarmed = self.on_alarm != "warn" and last.alarm is not None
        return last.epoch >= self.epochs or tired or alarmed

    def rewinds(self, past: Sequence[EpochReport]) -> bool:
        """Whether a run that ends here ends with the best weights."""
        return self.patience is not None or (self.on_alarm == "rewind" and past[-1].alarm is not None)
