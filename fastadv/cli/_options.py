"""The options that commands share, and how their text becomes values."""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import typer

from fastadv._checks import SEEDS, meant
from fastadv.data._load import data_folder
from fastadv.errors import InputError
from fastadv.evaluation.figures import check_path
from fastadv.evaluation.report.page import check_path as check_report
from fastadv.threat import THREATS, Threat

Split = Literal["train", "test"]


def refuse(text: str) -> NoReturn:
    """End the command as wrong usage, with exit code 2 and this text."""
    raise typer.BadParameter(text)


def refuse_given(why: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            refuse(f"--{name.replace('_', '-')} {why}")


def parse_number(text: str | float) -> float:
    """Parse a number, also as a fraction: 0.3, 1e-3, 8/255, inf. A default comes as the number itself."""
    try:
        return float(Fraction(text)) if "/" in str(text) else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"expected a number such as 0.3 or 8/255, got {text!r}.") from error


def parse_numbers(text: str) -> tuple[float, ...]:
    return tuple(parse_number(part) for part in text.split(","))


def split_names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def look_up(what: str, name: str, known: Iterable[str], more: str = "") -> str:
    if name not in (known := list(known)):
        refuse(f"no {what} {name!r}; there are {', '.join(known)}{more}{meant(name, known)}.")
    return name


parse_norm = partial(look_up, "norm", known=THREATS)


def parse_data_dir(text: str) -> Path:
    with usage():
        return data_folder(text)


def parse_out(text: str) -> Path:
    """Check the name of a file to write before the work: no folder, in a place that can be written."""
    path = Path(text)
    if path.is_dir() or not path.name:
        refuse(f"expected the name of a file, got the folder {text!r}.")
    return _writable(path, path.absolute().parent)


def parse_folder(text: str) -> Path:
    """Check the name of a folder to write before the work: no file, in a place that can be written."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        refuse(f"expected the name of a folder, got the file {text!r}.")
    return _writable(path, path.absolute())


def _writable(path: Path, place: Path) -> Path:
    folder = next(each for each in (place, *place.parents) if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        refuse(f"{str(path)!r} cannot be written in {folder}; choose another place.")
    return path


def _parse_checked(check: Callable[[str], object], text: str) -> Path:
    with usage():
        check(text)
    return parse_out(text)


parse_report, parse_picture = (partial(_parse_checked, check) for check in (check_report, check_path))


def pairs(parts: list[str], what: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            refuse(f"{what}: expected KEY=VALUE, got {part!r}.")
        if key in values:
            refuse(f"{what}: {key} is given twice; leave one out.")
        values[key] = _value(value)
    return values


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, parse_number):
        try:
            return convert(text)
        except (ValueError, typer.BadParameter):
            continue
    return text


# the types that text can name, the narrowest first
TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
# the types of an argument that a value of each may be given to
FITS: dict[type, set[type]] = {bool: {bool}, int: {int, float}, float: {float}, str: {str}}


def nameable(parameter: inspect.Parameter) -> bool:
    """Return whether text can name a value of the argument: a number, true or false, or text."""
    return bool(_types(parameter.annotation) & TYPES.keys())


def _types(annotation: Any) -> set[type]:
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return set().union(*map(_types, get_args(annotation)))
    return {annotation}


def parse_arguments(
    where: str, name: str, text: str, takes: Mapping[str, inspect.Parameter | None]
) -> dict[str, Any]:
    """Parse key=value,key=value into arguments of `name`. Wrong usage for one that it does not take."""
    given = pairs([part for part in text.split(",") if part], where)
    for key in given:
        if key not in takes:
            refuse(f"{name} takes no {key!r}; it takes {', '.join(takes) or 'none'}{meant(key, takes)}.")
    return {key: check_value(where, key, value, takes[key]) for key, value in given.items()}


def check_value(where: str, key: str, value: Any, parameter: inspect.Parameter | None) -> Any:
    """Refuse a value of a type that its argument does not take; norm and radius have no parameter."""
    own = str if key == "norm" else float
    types = {own} if parameter is None else _types(parameter.annotation)
    if value == "none" and NoneType in types:
        return None
    if types & FITS[type(value)]:
        return value
    if TYPES.keys() & types == {bool}:
        refuse(f"{where}: expected {key}=true or {key}=false, got {value!r}.")
    wanted = next(words for kind, words in TYPES.items() if kind in types)
    refuse(f"{where}: expected {key} to be {wanted}, got {value!r}.")


CHECKPOINT = "checkpoint.safetensors"  # of a training run


def check_run_dir(run_dir: Path | None, resume: bool, begun: str = CHECKPOINT, what: str = "a run") -> None:
    """Refuse to go on without a folder, and a folder where `begun` lies and is not to go on."""
    if run_dir is None:
        if resume:
            refuse("--resume continues in a folder: give --run-dir too.")
    elif (run_dir / begun).exists() and not resume:
        refuse(
            f"--run-dir {run_dir} already holds {what}: add --resume to continue it, "
            "or choose another folder."
        )


@contextmanager
def usage() -> Iterator[None]:
    """Turn an InputError inside into wrong usage, exit code 2: every command runs under it."""
    try:
        yield
    except InputError as error:
        raise typer.BadParameter(f"{error}.") from error


def make_threat(norm: str, radius: float) -> Threat:
    return THREATS[norm](radius)


def symbol(norm: str) -> str:
    return THREATS[norm].symbol


def option(default: Any, help: str, *names: str, **more: Any) -> Any:
    """Declare an option, as the default of an argument or of a field; `...` where it must be given."""
    told = {"option": typer.Option(*names, help=help, **more)}
    return field(metadata=told) if default is ... else field(default=default, metadata=told)


def count(default: Any, help: str, *names: str) -> Any:
    return option(default, help, *names, min=1)


def number(default: Any, help: str) -> Any:
    return option(default, help, parser=parse_number, metavar="NUMBER")


def folder(default: Any, help: str) -> Any:
    return option(default, help, parser=parse_folder, metavar="FOLDER")


def picture(default: Any, help: str) -> Any:
    return option(default, f"{help} (png, pdf, svg).", parser=parse_picture, metavar="FILE")


def written(default: Any, help: str) -> Any:
    return option(default, help, parser=parse_out, metavar="FILE")


def parse_shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise typer.BadParameter(f"expected I/N with I from 0 to N - 1, such as 0/8, got {text!r}.")
    return int(number), int(count)


DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data sets; else FASTADV_DATA, else the user's cache.",
        parser=parse_data_dir,
        metavar="FOLDER",
    ),
]
SplitOption = Annotated[Split | None, typer.Option("--split", help="Part of the data set; by default test.")]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples", "-n", min=1, help="Use only N samples: the first, or of a sorted set some of each class."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples worked on at once.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training images.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in --run-dir.")]
Seed = Annotated[int, typer.Option(min=0, max=SEEDS - 1, help="Random seed.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default the GPU where there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
