"""What the commands print: results on stdout and everything else on stderr."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from fastadv._checks import check_choice, check_share
from fastadv.arguments import pairs
from fastadv.cli import _options as o
from fastadv.evaluation import Table
from fastadv.progress import RichBar
from fastadv.text import aligned, several

SHARES = {"robust": "at_most", "clean": "clean_accuracy"}  # The figures of a table


def say(text: str, style: str | None = None) -> None:
    """Print results as they are: not wrapped, and without markup."""
    Console(file=sys.stdout, highlight=False).print(text, style=style, soft_wrap=True, markup=False)


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
    say(title, "bold")
    say(aligned(cells))
    for text in filter(None, notes):
        say(text, "dim")


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


def print_results(table: Table, model: str, dataset: Any) -> None:
    notes = [*table.notes(), dataset.note]
    title = f"{model} on {several(table.n, 'image')} of {dataset.name}"
    print_table(f"{table.headline} {title}".lstrip(), table.cells(), notes)
    for name, cells in table.details().items():
        print_table(name, cells)
    if verdict := table.verdict:
        say(verdict)


def _parse_limits(text: str) -> dict[str, float]:
    """Parse the least shares, such as robust=0.5,clean=0.9."""
    limits = pairs(text.split(","), "a share such as robust=0.5")
    for name, limit in limits.items():
        check_choice("share", name, SHARES)
        check_share(name, limit, zero=True, one=True)
    return limits


Limits = Annotated[Mapping[str, float], o.text(_parse_limits, "robust=SHARE,clean=SHARE")]


def too_low(table: Table, limits: Mapping[str, float]) -> str:
    """Say which accuracies are below their limits, or not known; "" where all are high enough."""
    said = []
    for name, limit in limits.items():
        share = getattr(table, SHARES[name])
        idle = name == "robust" and bool(table.rows) and not any(row.ran for row in table.rows)
        if math.isnan(share) or idle:
            why = table.unknown or "No attack could run." * idle
            said.append(f"{name} accuracy is not known, expected at least {limit:g}. {why}".strip())
        elif share < limit:
            said.append(f"{name} accuracy {share:g} is below {limit:g}")
    return "; ".join(said)
