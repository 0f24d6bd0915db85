"""Ctrl-C and SIGTERM: one line that says what was kept and how to go on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# The signals that stop a command, with what Python does about them by itself
STOPS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_received: list[int] = []


class Interrupted(Exception):
    """The user stopped the command; the text, if any, says what was kept and how to resume."""


@contextmanager
def interruptible(kept: Callable[[], str] | str) -> Iterator[None]:
    """Turn a KeyboardInterrupt inside into an Interrupted that carries `kept`."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(kept if isinstance(kept, str) else kept()) from None


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt inside, as Ctrl-C does; what the caller handles is left to it."""
    main = threading.current_thread() is threading.main_thread()
    ours = {number: usual for number, usual in STOPS.items() if main and signal.getsignal(number) == usual}
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, usual in ours.items():
            signal.signal(number, usual)
        _received.clear()


def _stop(number: int, frame: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def check_stop() -> None:
    """Stop again where a signal has told the command to: Python drops an exception out of a finalizer."""
    if _received:
        raise KeyboardInterrupt


def exit_code() -> int:
    """Return the exit code of a stopped command, by the custom of shells: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received[-1] if _received else signal.SIGINT)
