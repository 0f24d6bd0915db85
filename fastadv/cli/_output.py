"""What the commands print: results on stdout, everything else on stderr."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

PIPE_WIDTH = 100  # columns where the output is no terminal
PATIENCE = 2.0  # seconds of work before a progress bar appears

Tick = Callable[[int, int], None]
"""Called with (done, total)."""


def console() -> Console:
    """The results' console. Made anew each time because tests replace sys.stdout."""
    return (
        Console(file=sys.stdout, highlight=False)
        if sys.stdout.isatty()
        else Console(file=sys.stdout, highlight=False, width=PIPE_WIDTH)
    )


def note(text: str) -> None:
    """One line on stderr."""
    print("fastadv:", " ".join(text.split()), file=sys.stderr, flush=True)


def write_json(value: Any) -> None:
    """The one JSON document of a command on stdout; what JSON has no number for becomes null."""
    sys.stdout.write(json.dumps(finite(value), indent=2, allow_nan=False, default=str) + "\n")


def finite(value: Any) -> Any:
    """`value` with NaN and infinities as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def percent(value: float | None) -> str:
    """A share from 0 to 1 as a percentage; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}%"


def number(value: float | None) -> str:
    """A number to three digits; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"


def table(title: str, *columns: str, caption: str | None = None) -> Table:
    """An empty table whose first column is text and whose other columns are numbers."""
    made = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        expand=False,
    )
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    return made


class Bar:
    """A progress bar on stderr that appears after two seconds of work, and only on a terminal."""

    def __init__(self, text: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        self.task = self.bar.add_task(text, total=None)
        self.started = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self.bar.update(self.task, completed=done, total=total)
        if (
            self.bar.console.is_terminal
            and not self.bar.live.is_started
            and time.monotonic() - self.started > PATIENCE
        ):
            self.bar.start()

    def named(self, text: str, done: int, total: int) -> None:
        """The same, and what is being done."""
        self.bar.update(self.task, description=text)
        self(done, total)


@contextmanager
def progress(text: str) -> Iterator[Bar]:
    """A bar for the work inside, called with (done, total)."""
    bar = Bar(text)
    try:
        yield bar
    finally:
        if bar.bar.live.is_started:  # stopping a bar that was never drawn prints an empty line
            bar.bar.stop()
