"""What the commands print: results on stdout and everything else on stderr."""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from fastadv._checks import check_choice, check_share
from fastadv.cli import _options as o
from fastadv.evaluation import Table as Evaluation
from fastadv.progress import RichBar
from fastadv.text import several

SHARES = {"robust": "worst_case", "clean": "clean_accuracy"}  # The figures of a table
PIPE_WIDTH = 100  # columns where the output is no terminal
WIDEST_NAME = 24  # columns that a name in the first cell of a table may take without a line break
NUMBER = re.compile(r"\s*(-|~?-?[\d,]*(\.\d+)?(e[+-]?\d+)?%?|-?inf|nan)\s*")


def console() -> Console:
    """Make the console for results, anew each time because tests replace sys.stdout."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def say(text: str, style: str | None = None) -> None:
    """Print a line of results as it is: not wrapped, and without markup."""
    console().print(text, style=style, soft_wrap=True, markup=False)


def say_where(written: Mapping[str, Path | None]) -> None:
    for what, path in written.items():
        if path is not None:
            say(f"{what} in {path}")


def note(text: str) -> None:
    print("fastadv:", " ".join(text.split()), file=sys.stderr, flush=True)


def write_json(value: Any) -> None:
    """Print the one JSON document of a command."""
    sys.stdout.write(json.dumps(finite(value), indent=2) + "\n")


def finite(value: Any) -> Any:
    """Return the value as JSON has it; what JSON has no number for becomes None."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)


def print_table(title: str, cells: Sequence[Sequence[str]], notes: Sequence[str | None] = ()) -> None:
    """Print a table, cells[0] its head, and the notes below it."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", expand=False)
    for head, *column in zip(*cells, strict=True):
        numbers = all(map(NUMBER.fullmatch, column))
        table.add_column(escape(head), justify="right" if numbers else "left", overflow="ellipsis")
    names = table.columns[0]  # never cut, so that one can be copied
    names.overflow, names.min_width = "fold", min(WIDEST_NAME, max(len(line[0]) for line in cells))
    for line in cells[1:]:
        table.add_row(*map(escape, line))
    screen = console()
    if not screen.is_terminal:  # a file has room for all of it
        wide = Measurement.get(screen, screen.options.update(width=sys.maxsize), table)
        screen.width = max(PIPE_WIDTH, wide.maximum)
    screen.print(table)
    for text in filter(None, notes):
        screen.print(text, style="dim", markup=False)


class Bar(RichBar):
    """A progress bar on stderr that appears after two seconds of work, and only on a terminal."""

    patience, transient = 2.0, True

    def __call__(self, done: int, total: int) -> None:
        if self.bar.console.is_terminal:
            super().__call__(done, total)


@contextmanager
def progress(text: str) -> Iterator[Bar]:
    """Show a bar for the work inside, called with (done, total)."""
    with closing(Bar(text)) as bar:
        yield bar


def kept_in(run_dir: Path | None) -> str:
    if run_dir is None:
        return "nothing was kept; with --run-dir a run can be resumed"
    if not any(run_dir.rglob("*.safetensors")):
        return f"nothing was finished yet: add --resume to begin again in {run_dir}"
    return f"kept in {run_dir}: add --resume to continue"


def print_results(table: Evaluation, model: str, dataset: Any) -> None:
    notes = [*table.notes(), dataset.note]
    title = f"{model} on {several(table.n, 'image')} of {dataset.name}"
    print_table(f"{table.headline} {title}".lstrip(), table.cells(), notes)
    for name, cells in table.details().items():
        print_table(name, cells)
    if table.indicators is not None:
        say(table.verdict)


def _parse_limits(text: str) -> dict[str, float]:
    """Parse the least shares, such as robust=0.5,clean=0.9."""
    limits = o.pairs(text.split(","), "a share such as robust=0.5")
    for name, limit in limits.items():
        check_choice("share", name, SHARES)
        check_share(name, limit, zero=True, one=True)
    return limits


Limits = Annotated[Mapping[str, float], o.text(_parse_limits, "robust=SHARE,clean=SHARE")]


def too_low(table: Evaluation, limits: Mapping[str, float]) -> str:
    """Say which accuracies are below their limits, or not known; "" where all are high enough."""
    said = []
    for name, limit in limits.items():
        share = getattr(table, SHARES[name])
        if math.isnan(share):
            said.append(f"{name} accuracy is not known, expected at least {limit:g}. {table.unknown}".strip())
        elif share < limit:
            said.append(f"{name} accuracy {share:g} is below {limit:g}")
    return "; ".join(said)
