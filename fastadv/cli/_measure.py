"""What the commands that measure share: the table of an evaluation, and how they end."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from fastadv.cli._output import note, print_table, say
from fastadv.evaluation import Table
from fastadv.text import several

DOUBTFUL = 3  # the exit code of --strict where an accuracy is in doubt
NOTHING_KEPT = "nothing was kept: run it again, with fewer --samples for a first impression"


def kept_in(run_dir: Path | None) -> str:
    if run_dir is None:
        return NOTHING_KEPT
    if not any(run_dir.rglob("*.safetensors")):
        return f"nothing was finished yet: add --resume to begin again in {run_dir}"
    return f"kept in {run_dir}: add --resume to continue"


def spoken(text: str) -> str:
    """Say advice in the words of the command line."""
    text = text.replace("give fa.models.bpda", "give -m a function that returns fa.models.bpda")
    return text.replace("draws=20", "--draws 20")


def print_results(table: Table, model: str, dataset: Any) -> None:
    notes = [*table.notes(), dataset.note] if dataset.note else table.notes()
    title = f"{model} on {several(table.n, 'image')} of {dataset.name}"
    print_table(f"{table.headline} {title}".lstrip(), table.cells(), [*map(spoken, notes)])
    for name, cells in table.details().items():
        print_table(name, cells)
    if table.indicators is not None:
        say(spoken(table.verdict))


@contextmanager
def ending(code: int, why: str = "") -> Iterator[None]:
    """End the command with an exit code, also where only its document was asked for, and say why."""
    with suppress(GeneratorExit):
        yield
    if why:
        note(why)
    if code:
        raise typer.Exit(code)
