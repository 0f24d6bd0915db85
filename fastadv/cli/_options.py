"""How the text of options becomes values."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import typer

from fastadv._checks import SEEDS, check_choice, meant
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


def parse_number(text: str | float) -> float:
    """Parse a number, also as a fraction: 0.3, 1e-3, 8/255, inf. A default comes as the number itself."""
    try:
        over, slash, under = str(text).partition("/")
        return float(over) / float(under) if slash else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"expected a number such as 0.3 or 8/255, got {text!r}.") from error


def parse_numbers(text: str) -> tuple[float, ...]:
    return tuple(parse_number(part) for part in text.split(","))


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


def pairs(parts: list[str], what: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            refuse(f"{what}: expected KEY=VALUE, got {part!r}.")
        if key in values:
            refuse(f"{what}: {key} is given twice; leave one out.")
        values[key] = parse_value(value)
    return values


def parse_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, parse_number):
        with suppress(ValueError, typer.BadParameter):
            return convert(text)
    return text


# The types that text can name, the narrowest first
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def nameable(parameters: Mapping[str, inspect.Parameter]) -> dict[str, set[type]]:
    """Return the types of the arguments whose values text can name: numbers, true or false, or text."""
    types = dict[str, set[type]]()
    for key, parameter in parameters.items():
        told = parameter.annotation
        if isinstance(told, str) or told is parameter.empty:  # as a user's own function may have it
            told = type(parameter.default)
        if (kinds := _types(told)) & WORDS.keys():
            types[key] = kinds
    return types


def _types(annotation: Any) -> set[type]:
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return set().union(*map(_types, get_args(annotation)))
    return {annotation}


def needed(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    return {key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}


def registry() -> dict[str, Attack]:
    """Return the attacks that commands can name, in alphabetical order; minimum_radius takes another one."""
    return {name: ATTACKS[name] for name in sorted(ATTACKS.keys() - {"minimum_radius"})}


def name_and_arguments(text: str) -> tuple[str, str]:
    """Split NAME:key=value or package.module:function:key=value at the colon before the arguments."""
    name, _, tail = text.partition(":")
    if name in registry() or not tail or "=" in tail.partition(":")[0]:
        return name, tail
    function, _, tail = tail.partition(":")
    return f"{name}:{function}", tail


def parse_call(
    what: str, text: str, functions: Mapping[str, Callable[..., Any]], optional: bool = False
) -> tuple[str, dict[str, Any]]:
    """Parse NAME or NAME:key=value,key=value; optional: only arguments that the function can go without."""
    name, _, tail = text.partition(":")
    parameters = inspect.signature(functions[check_choice(what, name, functions)]).parameters
    hidden = needed(parameters) if optional else set()
    takes = {key: types for key, types in nameable(parameters).items() if key not in hidden}
    return name, parse_arguments(f"{what} {text!r}", name, tail, takes)


def parse_arguments(where: str, name: str, text: str, takes: Mapping[str, set[type]]) -> dict[str, Any]:
    """Parse key=value,key=value into arguments of `name`. Wrong usage for one that it does not take."""
    values = pairs([part for part in text.split(",") if part], where)
    for key, value in values.items():
        if key not in takes:
            refuse(f"{name} takes no {key!r}; it takes {', '.join(takes) or 'none'}{meant(key, takes)}.")
        types = takes[key]
        if value == "none" and NoneType in types:
            values[key] = None
        elif not types & ({int, float} if type(value) is int else {type(value)}):
            kinds = [kind for kind in WORDS if kind in types]
            wanted = f"{key}=true or {key}=false" if kinds == [bool] else f"{key} to be {WORDS[kinds[0]]}"
            refuse(f"{where}: expected {wanted}, got {value!r}.")
    return values
