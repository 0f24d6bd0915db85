"""What a picture keeps as text beside its pixels: the command, the seed, the machine and the date."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from fastadv._version import __version__
from fastadv.runs.card import cpu_name

_TOLD: ContextVar[dict[str, str]] = ContextVar("told")


@contextmanager
def telling(**parts: object) -> Iterator[None]:
    """Make `about` include these parts inside the block: telling(command="fastadv demo", seed=0)."""
    before = _TOLD.set(_TOLD.get({}) | {name: str(part) for name, part in parts.items()})
    try:
        yield
    finally:
        _TOLD.reset(before)


def about() -> dict[str, str]:
    """Return the software, the machine and the date, and what `telling` was given around the call."""
    own = {
        "Software": f"fastadv {__version__}",
        "machine": cpu_name(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    return own | _TOLD.get({})
