"""Arguments as text, such as steps=100,loss=dlr: what may stand behind the name of an attack or a recipe."""

import inspect
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fastadv._checks import check_choice, meant
from fastadv.errors import InputError


def parse_number(text: str | float) -> float:
    """Parse a number, also as a fraction: 0.3, 1e-3, 8/255, inf. A default comes as the number itself."""
    try:
        over, slash, under = str(text).partition("/")
        return float(over) / float(under) if slash else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"expected a number such as 0.3 or 8/255, got {text!r}") from error


def parse_numbers(text: str) -> tuple[float, ...]:
    return tuple(parse_number(part) for part in text.split(","))


def pairs(parts: list[str], what: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{what}: expected KEY=VALUE, got {part!r}")
        if key in values:
            raise InputError(f"{what}: {key} is given twice; leave one out")
        values[key] = parse_value(value)
    return values


def parse_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, parse_number):
        with suppress(ValueError):
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


def name_and_arguments(text: str, known: Container[str]) -> tuple[str, str]:
    """Split NAME:key=value or package.module:function:key=value at the colon before the arguments."""
    name, _, tail = text.partition(":")
    if name in known or not tail or "=" in tail.partition(":")[0]:
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
    """Parse key=value,key=value into arguments of `name`; InputError for one that it does not take."""
    values = pairs([part for part in text.split(",") if part], where)
    for key, value in values.items():
        if key not in takes:
            raise InputError(
                f"{name} takes no {key!r}; it takes {', '.join(takes) or 'none'}{meant(key, takes)}"
            )
        types = takes[key]
        if value == "none" and NoneType in types:
            values[key] = None
        elif not types & ({int, float} if type(value) is int else {type(value)}):
            kinds = [kind for kind in WORDS if kind in types]
            wanted = f"{key}=true or {key}=false" if kinds == [bool] else f"{key} to be {WORDS[kinds[0]]}"
            raise InputError(f"{where}: expected {wanted}, got {value!r}")
    return values
