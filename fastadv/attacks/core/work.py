"""How many passes of a sample an attack plans, by which the model is frozen or not."""

import inspect
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

# arguments that multiply each other
COUNTS = ("steps", "queries", "restarts", "searches")
# of an attack that has none of them, such as AutoAttack: one of its parts
UNKNOWN = 100


def passes(arguments: Mapping[str, Any]) -> int:
    """Return how many gradients or queries of a sample these arguments of an attack ask for."""
    counts = [arguments[name] for name in COUNTS if name in arguments]
    return prod(count for count in counts if isinstance(count, int) and count > 0) if counts else UNKNOWN


def planned(*attacks: Callable[..., Any]) -> int:
    """Return `passes` of all attacks, by their defaults and by what partials have bound."""
    return sum(map(_planned, attacks))


def _planned(attack: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(attack).parameters
    except (TypeError, ValueError):
        return UNKNOWN
    return passes({name: parameter.default for name, parameter in parameters.items()})
