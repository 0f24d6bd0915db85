"""Classes of other packages, each made of a function that says which attack of ours its arguments mean."""

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastadv import rng
from fastadv.errors import InputError


class Translated:
    """An attack of ours under another package's name. Its arguments are attributes, which may be changed."""

    first: tuple[str, ...]  # arguments before those of `ours`
    _make: Callable[..., Any]
    _own: tuple[str, ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = self.__signature__.bind(*args, **kwargs)  # type: ignore[attr-defined]
        given.apply_defaults()
        vars(self).update(given.arguments)

    @property
    def ours(self) -> Any:
        """Return what the attributes mean here."""
        return type(self)._make(**{name: getattr(self, name) for name in self._own})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in self._own)})"


T = TypeVar("T", bound=Translated)


def translated(base: type[T], name: str, make: Callable[..., Any], *first: str) -> type[T]:
    """Return the class `name` with the arguments of `make`, after those `first`."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = inspect.signature(make).parameters
    whole = inspect.Signature([*(inspect.Parameter(each, kind) for each in first), *own.values()])
    about = {"_make": staticmethod(make), "_own": tuple(own), "__signature__": whole, "first": first}
    return type(
        name, (base,), {**about, "__doc__": make.__doc__ or base.__doc__, "__module__": make.__module__}
    )


def seed_for(run: partial[Any]) -> dict[str, int]:
    """Draw a seed from torch's generator, which governs these packages; none where `run` has its own."""
    given = "seed" not in inspect.signature(run.func).parameters or run.keywords.get("seed") is not None
    return {} if given else {"seed": rng.fresh_seed()}


def no_label(targets: Tensor) -> Tensor:
    """Return classes int [B] other than the targets, which stand for the labels that nobody gave."""
    return torch.where(targets == 0, 1, 0)


def refuse(package: str, name: str, instead: Mapping[str, str]) -> None:
    """Raise InputError for a class that we have no equal of, with what to use in its place, by patterns."""
    for pattern, other in instead.items():
        if fnmatchcase(name, pattern):
            raise InputError(f"{package}.{name}: expected an attack that fastadv has too; {other}")


def served(
    name: str, module: str, package: str, classes: Mapping[str, Any], instead: Mapping[str, str]
) -> Any:
    """Return the class of that name: the `__getattr__` of a module that has those of a package.

    Raises InputError for a class that we have no equal of, and AttributeError for any other name.
    """
    if name in classes:
        return classes[name]
    refuse(package, name, instead)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
