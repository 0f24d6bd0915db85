"""The option objects that `fit` takes, and where each option belongs."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from fastadv.errors import InputError
from fastadv.train.ending import Ending
from fastadv.train.execution import Execution
from fastadv.train.measuring import Measuring
from fastadv.train.optim import Optimization

P = ParamSpec("P")
T = TypeVar("T")

GROUPS: dict[str, type[Any]] = {
    "optimization": Optimization,
    "measuring": Measuring,
    "ending": Ending,
    "execution": Execution,
}


def names_groups(each: Callable[P, T]) -> Callable[P, T]:
    """Let `each` refuse an option that belongs in an option object, and name that object."""

    @wraps(each)
    def checked(*args: P.args, **options: P.kwargs) -> T:
        for argument, group in GROUPS.items():
            alone = [field.name for field in fields(group) if field.name in options]
            if alone:
                inside = ", ".join(f"{name}=..." for name in alone)
                raise InputError(
                    f"{alone[0]}: expected within {argument}, got it as an argument of its own; "
                    f"pass {argument}={group.__name__}({inside}), from fastadv.train"
                )
            given = options.get(argument)
            if argument in options and not isinstance(given, group):
                raise InputError(
                    f"{argument}: expected a fastadv.train.{group.__name__}, got {type(given).__name__}"
                )
        return each(*args, **options)

    return checked
