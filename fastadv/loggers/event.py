"""What a logger is given."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fastadv.errors import InputError

OnEvent = Callable[[Mapping[str, Any]], None]
"""`on_event` of a logger, which `fa.evaluate` and `fa.train.Measuring` take."""


class Logger(Protocol):
    """Anything that takes events."""

    def on_event(self, event: Mapping[str, Any], /) -> None:
        """Take one event.

        Args:
            event: numbers and text by name.
        """


def flat(event: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Flatten an event: dictionaries inside are joined by "/", and None is left out.

    Args:
        event: numbers, text and dictionaries of them by name.
        head: what each name begins with.

    Returns:
        A dictionary of numbers and text.
    """
    made: dict[str, Any] = {}
    for name, value in event.items():
        if isinstance(value, Mapping):
            made |= flat(value, f"{head}{name}/")
        elif value is not None:
            made[f"{head}{name}"] = value
    return made


def place_of(event: Mapping[str, Any]) -> int | None:
    """Return where the event is on the axis: its step, or else its epoch; None where it has neither."""
    place = event.get("step", event.get("epoch"))
    return None if place is None else int(place)


def check_on_event(on_event: Any) -> OnEvent | None:
    """Return a function of a dictionary, or None. Raises InputError for anything else."""
    if on_event is None or callable(on_event):
        return on_event  # type: ignore[no-any-return]
    raise InputError(
        f"on_event: expected a function of a dictionary, got {type(on_event).__name__}; "
        "pass the method on_event of a logger"
    )
