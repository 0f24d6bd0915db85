"""The arguments that every attack takes, written once."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypedDict, TypeVar

from torch import Tensor

from fastadv.attacks.core.criterion import Criterion

P = ParamSpec("P")
R = TypeVar("R")


class Common(TypedDict, total=False):
    """The arguments that every attack takes.

    targets: int [B]; a success is a decision for these classes, instead of one against y.
    criterion: None, or what else a success must be: `ConfidentlyWrong(confidence)`, `WrongBy(lead)` or
        `OutsideTopK(k)`.
    mask: bool, broadcasts to x; only coordinates where it is True may move. None: all.
    eot: an integer >= 1; the search averages loss, logits and gradient over that many passes of a randomized
        model (expectation over transformation).
    ids: int [B], sample numbers (default 0 to B - 1); random draws depend on them, not on the batch.
    """

    targets: Tensor | None
    criterion: Criterion | None
    mask: Tensor | None
    eot: int
    ids: Tensor | None


DEFAULTS = {"targets": None, "criterion": None, "mask": None, "eot": 1, "ids": None}


def takes_common(function: Callable[P, R]) -> Callable[P, R]:
    """Return an attack with `**common: Unpack[Common]`, whose signature shows these arguments one by one."""
    kinds = inspect.Parameter
    own = inspect.signature(function).parameters.values()
    shared = [
        kinds(name, kinds.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation)
        for name, annotation in Common.__annotations__.items()
    ]
    whole = inspect.Signature(
        [*(parameter for parameter in own if parameter.kind is not kinds.VAR_KEYWORD), *shared],
        return_annotation=inspect.signature(function).return_annotation,
    )

    @wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            whole.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}: {error}") from None
        return function(*args, **kwargs)

    attack.__signature__ = whole  # type: ignore[attr-defined]
    return attack
