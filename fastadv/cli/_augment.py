"""From text such as `crop+flip+cutout:size=8` to augmentations."""

import inspect
from functools import partial

from fastadv.cli import _options as o
from fastadv.cli._values import nameable, parse_arguments
from fastadv.train.augment import AUGMENTS, Augment

HELP = f"{', '.join(AUGMENTS)}; several with +, arguments with a colon: crop+alternating_flip+cutout:size=8."


def parse_augment(text: str) -> list[Augment] | None:
    """Parse augmentations, each NAME or NAME:key=value,key=value; None for "none".

    Raises typer.BadParameter for text that cannot be understood.
    """
    return None if text == "none" else [part for each in text.split("+") for part in _parts(each)]


def _parts(text: str) -> tuple[Augment, ...]:
    name, colon, tail = text.partition(":")
    if name not in AUGMENTS:
        o.refuse(f"no augmentation {name!r}; there are none, {', '.join(AUGMENTS)}.")
    if not colon:
        return AUGMENTS[name]
    if len(AUGMENTS[name]) > 1:
        o.refuse(f"{name} takes no arguments: name its parts, with + between them.")
    (function,) = AUGMENTS[name]
    takes = inspect.signature(function).parameters.items()
    open_ = {key: one for key, one in takes if nameable(one) and one.default is not inspect.Parameter.empty}
    return (partial(function, **parse_arguments(f"augmentation {text!r}", name, tail, open_)),)
