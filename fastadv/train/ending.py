"""When training ends, and with which weights."""

from dataclasses import dataclass

from fastadv._checks import check_choice, check_count

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
        check_choice("on_alarm", self.on_alarm, ACTIONS)
