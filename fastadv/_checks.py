"""Checks of arguments that every layer shares. They raise InputError: what was expected, and what came."""

import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args

import torch

from fastadv.errors import InputError

SEEDS = 1 << 63
# Names in other libraries, and ours
SYNONYMS = {
    **dict.fromkeys(("eps", "epsilon"), "radius"),
    **dict.fromkeys(("alpha", "eps_iter", "eps_step", "stepsize"), "step_size"),
    **dict.fromkeys(("iters", "n_iter", "num_steps", "nb_iter", "max_iter", "iterations"), "steps"),
    **dict.fromkeys(("num_random_init", "nb_random_init", "n_restarts", "random_restarts"), "restarts"),
    **dict.fromkeys(("rand_init", "random_init"), "random_start"),
}
# Advice for arguments of other libraries; {} is the value
FOREIGN = {
    **{name: "threat=fa.{ball}({})" if ours == "radius" else ours + "={}" for name, ours in SYNONYMS.items()},
    "targeted": "targets=, the class that each sample is to reach (for False, nothing)",
    "norm": "threat=fa.{ball}(radius)",
    **dict.fromkeys(("confidence", "kappa"), "criterion=fa.attacks.WrongBy({})"),
    "rel_stepsize": "step_size={} * radius",
    **dict.fromkeys(("clip_values", "bounds"), "threat=fa.{ball}(radius, box={})"),
    "batch_size": "fa.evaluate(model, dataset, ..., batch_size={})",
    "device": "model.to({!r}) before the call",
    **{name: f"fa.freeze(model, {name}={{!r}}) for the model" for name in ("precision", "compile")},
    "verbose": "progress=True in fa.evaluate, or print(out) after the attack",
    "minimal": "fa.attacks.minimum_norm, which finds the least change",
}
P = ParamSpec("P")
R = TypeVar("R")
OnEvent = Callable[[Mapping[str, Any]], None]
"""What `fa.evaluate` and `fa.train.Measuring` tell the numbers of a run."""


def warn(text: str) -> None:
    """Warn, at the line outside the library that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("fastadv."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def check_count(name: str, value: Any, least: int) -> int:
    """Check an integer.

    Args:
        name: of the argument, for the message.
        value: what the caller gave.
        least: the smallest value allowed.

    Returns:
        The integer.

    Raises:
        InputError: it is no integer, or smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}: expected an integer >= {least}, got {value!r}")
    return value


def as_number(value: Any) -> float:
    """Return a value as a float; NaN if it is no number."""
    try:
        return math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several values
        return math.nan


def check_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, finite: bool = True
) -> float:
    """Return a number within limits as a float; `finite` refuses infinity."""
    number = as_number(value)
    if not (least <= number <= most and (math.isfinite(number) or not finite)):
        at_least = "" if least == -math.inf else f" >= {least:g}"
        at_most = "" if most == math.inf else f"{' and' if at_least else ''} <= {most:g}"
        kind = "finite number" if finite else "number"
        raise InputError(f"{name}: expected a {kind}{at_least}{at_most}, got {value!r}")
    return number


def check_share(name: str, value: Any, *, zero: bool = False, one: bool = False) -> float:
    """Return a number between 0 and 1 as a float; `zero` and `one` allow the ends."""
    number = check_number(name, value, 0, 1)
    if (number == 0 and not zero) or (number == 1 and not one):
        interval = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
        raise InputError(f"{name}: expected a number in {interval}, got {value!r}")
    return number


def kind_of(value: object) -> str:
    """Return what came in place of a tensor that was expected, for an error."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{value.dtype} {tuple(value.shape)}"


def check_flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name}: expected True or False, got {value!r}")
    return value


def check_device(device: Any) -> torch.device:
    """Return a device that torch can use."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device: expected one that torch can use, got {device!r} ({reason})") from error


def check_seed(seed: Any, name: str = "seed") -> int:
    """Return an integer from 0 to 2^63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise InputError(f"{name}: expected an integer from 0 to 2^63 - 1, got {seed!r}")
    return seed


def meant(name: Any, known: Iterable[str], written: Callable[[str], str] = str) -> str:
    """Return which of the known names, also of options, was meant, as the end of an error; "" for none."""
    plain = {one.lstrip("-").replace("-", "_").lower(): one for one in known}
    word = str(name).lstrip("-").replace("-", "_").lower()
    word = SYNONYMS.get(word, word)
    swapped = [one for one in plain if sorted(one) == sorted(word)]
    near = [word] if word in plain else [*dict.fromkeys([*swapped, *get_close_matches(word, plain, 2)])][:2]
    return f"; did you mean {' or '.join(repr(written(plain[one])) for one in near)}?" if near else ""


def unknown(
    module: str, name: str, known: Iterable[str], written: Callable[[str], str] = str
) -> AttributeError:  # fmt: skip
    """Return the error for a name that a module does not have."""
    near = "" if name.startswith("_") else meant(name, known, written)
    return AttributeError(f"module {module!r} has no attribute {name!r}{near}")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Let code in torch.compile call a function as it is."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return outside_compile(function, *args, **kwargs)
        return function(*args, **kwargs)

    return called


def outside_compile(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function from code that torch.compile is compiling, which leaves it as it is."""
    disabled: Callable[P, R] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return disabled(*args, **kwargs)


def check_known(function: str, arguments: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise TypeError, which says what was meant, for an argument that a function does not have."""
    for name in sorted(arguments.keys() - {*known}):
        write = FOREIGN.get(name, "").format(arguments[name], ball="Linf")
        helps = write.split("=")[0].split(".")[0] in known  # it names an argument of the function
        advice = f"; write {write}" if helps else meant(name, known)
        raise TypeError(f"{function}: no argument {name!r}{advice}") from None


def knowing(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function say which argument was meant where it is called with one that it does not have."""
    return _answering(function, function)


def knowing_fields(kind: Any) -> None:
    """Let a class do so, in place."""
    kind.__init__ = _answering(kind.__init__, kind)


def _answering(call: Callable[P, R], of: Callable[..., Any]) -> Callable[P, R]:
    known, of_class = [*taken(of)], isinstance(of, type)

    @wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not of_class and torch.compiler.is_compiling():
            return outside_compile(call, *args, **kwargs)
        try:  # nothing is looked at before a call has failed
            return call(*args, **kwargs)
        except TypeError:
            check_known(of.__name__, kwargs, known)
            raise

    return called


def taken(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the names of the arguments of a function, those of its dictionary of options among them."""
    for name, one in inspect.signature(function).parameters.items():
        if one.kind is one.VAR_KEYWORD:
            yield from get_args(one.annotation)[0].__annotations__
        else:
            yield name


def check_choice(name: str, value: Any, choices: Iterable[str], other: str = "") -> str:
    """Return one of the names `choices`; otherwise the error names the nearest, and what `other` would do."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    near = meant(value, known)
    raise InputError(f"{name}: expected one of {', '.join(known)}{other}, got {value!r}{near}")


def check_on_event(on_event: Any) -> OnEvent | None:
    """Return a function of a dictionary, or None."""
    if on_event is None or callable(on_event):
        return on_event  # type: ignore[no-any-return]
    raise InputError(f"on_event: expected a function of a dictionary, got {type(on_event).__name__}")
