"""Values of arguments that text can name."""

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fastadv.cli import _options as o

# the types that text can name, the narrowest first
TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
# the types of an argument that a value of each may be given to
FITS: dict[type, set[type]] = {bool: {bool}, int: {int, float}, float: {float}, str: {str}}


def nameable(parameter: inspect.Parameter) -> bool:
    """Return whether text can name a value of the argument: a number, true or false, or text."""
    return bool(_types(parameter.annotation) & TYPES.keys())


def _types(annotation: Any) -> set[type]:
    """Return the types of an argument's values."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return set().union(*map(_types, get_args(annotation)))
    return {annotation}


def parse_arguments(
    where: str, name: str, text: str, takes: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """Parse key=value,key=value into arguments of `name`. Wrong usage for one that it does not take."""
    given = o.pairs([part for part in text.split(",") if part], where)
    for key in given:
        if key not in takes:
            o.refuse(f"{name} takes no {key!r}; it takes {', '.join(takes) or 'none'}.")
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
        o.refuse(f"{where}: expected {key}=true or {key}=false, got {value!r}.")
    wanted = next(words for kind, words in TYPES.items() if kind in types)
    o.refuse(f"{where}: expected {key} to be {wanted}, got {value!r}.")
