"""What the commands print: results on stdout, everything else on stderr."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console, OverflowMethod
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from fastadv.cli._interrupt import check_stop
from fastadv.progress import RichBar

PIPE_WIDTH = 100  # columns where the output is no terminal
WIDEST_NAME = 24  # columns that a name in the first cell of a table may take without a line break
PATIENCE = 2.0  # seconds of work before a progress bar appears

Tick = Callable[[int, int], None]
"""Called with (done, total)."""


def show_all() -> None:
    """Show the code of a character that the encoding of the output lacks, where Python raises an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def console() -> Console:
    """Make the console for results, anew each time because tests replace sys.stdout."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, highlight=False, width=width)


def say(text: str, style: str | None = None) -> None:
    """Print a line of results as it is: not wrapped, and without markup."""
    console().print(text, style=style, soft_wrap=True, markup=False)


def say_where(written: Mapping[str, Path | None], width: int = 0) -> None:
    for what, path in written.items():
        if path is not None:
            say(f"{what:<{width}} {path}" if width else f"{what} in {path}")


def note(text: str) -> None:
    print("fastadv:", " ".join(text.split()), file=sys.stderr, flush=True)


def write_json(value: Any) -> None:
    """Print the one JSON document of a command; what JSON has no number for becomes null."""
    sys.stdout.write(json.dumps(finite(value), indent=2, allow_nan=False, default=str) + "\n")


def finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def print_table(
    title: str, cells: Sequence[Sequence[str]], notes: Sequence[str] = (), *, breaks: Sequence[int] = ()
) -> None:
    """Print a table, cells[0] its head, a rule after the lines `breaks`, and the notes below it."""
    made = Table(title=escape(title), title_justify="left", title_style="bold", expand=False)
    for place, column in enumerate(zip(*cells, strict=True)):
        numbers = all(_is_number(cell) for cell in column[1:])
        # names are never cut, so that one can be copied
        least = min(WIDEST_NAME, max(map(len, column))) if place == 0 else None
        overflow: OverflowMethod = "ellipsis" if place else "fold"
        made.add_column(
            escape(column[0]), justify="right" if numbers else "left", min_width=least, overflow=overflow
        )
    for place, line in enumerate(cells[1:], start=1):
        made.add_row(*(escape(cell) for cell in line), end_section=place in breaks)
    screen = console()
    figures = all(len(cell) <= WIDEST_NAME for line in cells for cell in line[1:])
    if figures and not screen.is_terminal:  # a file has room for each of them
        wide = Measurement.get(screen, screen.options.update(width=sys.maxsize), made)
        screen.width = max(PIPE_WIDTH, wide.maximum)
    screen.print(made)
    for text in notes:
        screen.print(text, style="dim", markup=False)


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().removeprefix("~").removesuffix("%").replace(",", "") or "0")
    except ValueError:
        return cell == "-"
    return True


class Bar(RichBar):
    """A progress bar on stderr that appears after two seconds of work, and only on a terminal."""

    patience, transient = PATIENCE, True

    def __call__(self, done: int, total: int) -> None:
        check_stop()
        if self.bar.console.is_terminal:
            super().__call__(done, total)


@contextmanager
def progress(text: str) -> Iterator[Bar]:
    """Show a bar for the work inside, called with (done, total)."""
    with closing(Bar(text)) as bar:
        yield bar
