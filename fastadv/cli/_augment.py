"""From text such as `crop+flip+cutout:size=8` to augmentations."""

import inspect
from functools import partial

import typer

from fastadv.cli._options import pairs
from fastadv.cli._values import check_value, nameable
from fastadv.train.augment import AUGMENTS, Augment

HELP = f"{', '.join(AUGMENTS)}; several with +, arguments with a colon: crop+alternating_flip+cutout:size=8."


def parse_augment(text: str) -> list[Augment] | None:
    """The augmentations that `text` names, each NAME or NAME:key=value,key=value; None for "none".

    Raises typer.BadParameter for text that cannot be understood.
    """
    return None if text == "none" else [part for each in text.split("+") for part in _parts(each)]


def _parts(text: str) -> tuple[Augment, ...]:
    name, colon, tail = text.partition(":")
    if name not in AUGMENTS:
        raise typer.BadParameter(f"no augmentation {name!r}; there are none, {', '.join(AUGMENTS)}.")
    if not colon:
        return AUGMENTS[name]
    if len(AUGMENTS[name]) > 1:
        raise typer.BadParameter(f"{name} takes no arguments: name its parts, with + between them.")
    (function,) = AUGMENTS[name]
    where = f"augmentation {text!r}"
    takes = inspect.signature(function).parameters
    keys = [key for key, one in takes.items() if nameable(one) and one.default is not inspect.Parameter.empty]
    given = pairs([part for part in tail.split(",") if part], where)
    for key in given:
        if key not in keys:
            raise typer.BadParameter(f"{name} takes no {key!r}; it takes {', '.join(keys) or 'none'}.")
    return (partial(function, **{key: check_value(where, key, v, takes[key]) for key, v in given.items()}),)
