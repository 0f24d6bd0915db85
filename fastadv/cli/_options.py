"""How the text of options becomes values."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fastadv._checks import SEEDS, check_choice
from fastadv.attacks import ATTACKS, Attack
from fastadv.data._load import data_folder
from fastadv.errors import InputError
from fastadv.evaluation.report.page import check_path as check_report
from fastadv.threat import THREATS


def refuse(text: str) -> NoReturn:
    """End the command as wrong usage, with exit code 2 and this text."""
    raise typer.BadParameter(text)


def refuse_set(why: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            refuse(f"--{name.replace('_', '-')} {why}")


@contextmanager
def usage() -> Iterator[None]:
    """Turn an InputError inside into wrong usage, exit code 2: every command runs under it."""
    try:
        yield
    except InputError as error:
        raise typer.BadParameter(f"{error}.") from error


def parse_place(text: str, what: str, check: Callable[[str], object] = Path) -> Path:
    """Check the name of a file or a folder before the work: it lies where it can be written."""
    check(text)
    path, is_folder = Path(text), what == "folder"
    if path.exists() and path.is_dir() != is_folder:
        refuse(f"expected the name of a {what}, got {text!r}.")
    place = path.absolute() if is_folder else path.absolute().parent
    folder = next(parent for parent in (place, *place.parents) if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        refuse(f"{text!r} cannot be written in {folder}; choose another place.")
    return path


def check_samples(text: str) -> None:
    if Path(text).suffix != ".safetensors":
        refuse(f"expected a name ending in .safetensors, got {text!r}.")


def text(parser: Callable[[str], Any], metavar: str, help: str | None = None) -> Any:
    """Declare an option whose text has a parser of its own."""
    return typer.Option(parser=usage()(parser), metavar=metavar, help=help)


Folder = Annotated[Path, text(partial(parse_place, what="folder"), "FOLDER")]
Written = Annotated[Path, text(partial(parse_place, what="file"), "FILE")]
SAMPLES = (
    "Write x, the nearest x_adv of all attacks, y, ids, success, status, distance, by (which attack, -1 for "
    "none), component (which part of it, as for autoattack) and the distances of each attack here, a "
    ".safetensors file."
)
Samples = Annotated[Path, text(partial(parse_place, what="file", check=check_samples), "FILE", SAMPLES)]
Report = Annotated[Path, text(partial(parse_place, what="file", check=check_report), "FILE")]
DataDir = Annotated[Path, text(data_folder, "FOLDER")]
Seed = Annotated[int, typer.Option(min=0, max=SEEDS - 1, metavar="N")]
FromZero = Annotated[int, typer.Option(min=0, metavar="N")]
Norm = Annotated[str, text(partial(check_choice, "norm", choices=THREATS), "|".join(THREATS))]


def registry() -> dict[str, Attack]:
    """Return the attacks that commands can name, in alphabetical order; minimum_radius takes another one."""
    return {name: ATTACKS[name] for name in sorted(ATTACKS.keys() - {"minimum_radius"})}
