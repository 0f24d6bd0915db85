"""Ctrl-C: one line that says what was kept and how to go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The user stopped the command; the text says what was kept and how to resume."""


@contextmanager
def interruptible(kept: Callable[[], str] | str) -> Iterator[None]:
    """Turn Ctrl-C inside into an Interrupted that carries `kept`."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(kept if isinstance(kept, str) else kept()) from None
