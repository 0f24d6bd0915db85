"""What calls took on this machine, in another way and as they are: kept in the user's cache folder."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastadv._version import __version__
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.card import cpu_name
from fastadv.runs.files import read_json, user_cache, write_json

log = logging.getLogger("fastadv")

Seconds = tuple[float, float]  # of a call in another way, and as it is


class Choice(NamedTuple):
    """A way to replace a function of torch that is faster for some calls only.

    run: takes what the function takes. expected: whether it is faster for such arguments, where nothing was
    measured; NotImplemented where it does not suit. forget: drops what `run` keeps for such arguments.
    """

    run: Callable[..., Any]
    expected: Callable[..., Any]
    forget: Callable[..., None] = lambda *args, **kwargs: None


class Choices:
    """The seconds of calls, kept in a file. What cannot be read of it is measured again."""

    def __init__(self, path: Path) -> None:
        """Read what is known; None stands for a call that was met when no time was left."""
        self.path = path
        self.known: dict[str, Seconds | None] = dict(_read(path))
        self.keeps = True  # until a write fails

    def add(self, call: str, taken: Seconds | None) -> None:
        """Keep the seconds of a call, unless another process was first: then its own hold."""
        there = dict(_read(self.path))
        self.known[call] = there[call] = there.get(call) or taken
        try:
            write_json(self.path, {"machine": machine(), "calls": there})
        except OSError as error:
            self.keeps = False
            log.info("tune: %s cannot be written (%s): nothing more is measured", self.path, error)


def _read(path: Path) -> Iterator[tuple[str, Seconds | None]]:
    try:
        calls = read_json(path)["calls"].items()
    except (CorruptFileError, OSError, KeyError, TypeError, AttributeError):
        return
    for call, taken in calls:
        if taken is None:
            yield call, None
        elif isinstance(taken, list) and len(taken) == 2 and all(map(_is_time, taken)):
            yield call, (taken[0], taken[1])


def _is_time(value: object) -> bool:
    return isinstance(value, float) and 0 < value < float("inf")


def machine() -> str:
    """Return what measurements belong to: processor, versions, and what forces the kernels' instructions."""
    forced = os.environ.get("FASTADV_ISA", "")
    return f"{cpu_name()}, torch {torch.__version__}, fastadv {__version__}{f', {forced}' if forced else ''}"


def here() -> Choices | None:
    """Return what is known of this machine; None where the user has no folder to keep it in."""
    try:
        folder = user_cache()
    except InputError:
        return None
    name = hashlib.sha256(machine().encode()).hexdigest()[:16]
    return _choices(folder / "tune" / f"{name}.json")


@cache
def _choices(path: Path) -> Choices:
    return Choices(path)
