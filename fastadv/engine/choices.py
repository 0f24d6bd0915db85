"""Which calls are faster in another way on this machine: measured once, and kept in the user's cache."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv._torch import count_dispatch_modes, is_profiled, without_modes
from fastadv._version import __version__
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs import processes
from fastadv.runs.card import cpu_name
from fastadv.runs.files import read_json, user_cache, write_json

log = logging.getLogger("fastadv")

VARIABLE = "FASTADV_TUNE"
SECONDS = 1.0
# either way is timed so often, of which the first time warms up, and more often within SHORT seconds
LEAST_TURNS, SHORT = 3, 0.01
# a measurement must contradict what is expected by this much, so that noise seldom does
MARGIN = 0.95

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
    """What calls took on this machine, kept in a file. A file that cannot be read counts as empty."""

    def __init__(self, path: Path) -> None:
        """Read what is known; None stands for a call that was met and not measured."""
        self.path = path
        self.known: dict[str, Seconds | None] = dict(_read(path))
        self.keeps = True  # until a write fails

    def add(self, call: str, taken: Seconds | None) -> None:
        """Keep it, unless another process knew it first: then that holds."""
        self.known[call] = taken
        there = dict(_read(self.path))
        if there.get(call) is None:
            there[call] = taken
            self._write(there)

    def _write(self, calls: dict[str, Seconds | None]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"machine": machine(), "calls": calls})
        except OSError as error:
            self.keeps = False
            log.info("tune: %s cannot be written (%s): nothing more is measured", self.path, error)


def _read(path: Path) -> Iterator[tuple[str, Seconds | None]]:
    try:
        calls = read_json(path)["calls"].items()
    except (CorruptFileError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    for call, taken in calls:
        if taken is None:
            yield call, None
        elif isinstance(taken, list) and len(taken) == 2 and all(isinstance(each, float) for each in taken):
            yield call, (taken[0], taken[1])


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


def asked_seconds() -> float:
    """Return the seconds that FASTADV_TUNE allows for a model; InputError where it is no number >= 0."""
    told = os.environ.get(VARIABLE, "")
    try:
        seconds = float(told or SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{VARIABLE}: expected seconds, such as 1, or 0 to measure nothing, got {told!r}")
    return seconds


_measuring = RLock()  # times taken side by side would be wrong


class Chooser:
    """Chooses how the calls of one model are computed, and takes so many seconds at most to measure them.

    What was decided for a kind of call holds in all processes, so that runs repeat to the bit: a call that is
    met when no time is left goes as expected from then on, until more than the usual seconds are allowed.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.left, self._again = seconds, seconds > SECONDS
        self._choices = here() if seconds > 0 else None

    def takes(self, name: str, way: Choice, func: Any, args: Any, kwargs: Any) -> bool:
        """Return whether to take that way; `name` is that of its rewrite."""
        expected = way.expected(*args, **kwargs)
        if expected is NotImplemented:
            return False
        choices = self._choices
        if choices is None or not choices.keeps or must_repeat():
            return bool(expected)
        call = described(name, func, args, kwargs)
        if call is None:
            return bool(expected)
        if self._decides(choices, call):
            with _measuring:
                self._decide(choices, call, way, func, args, kwargs)
        faster = is_faster(choices.known[call], bool(expected))
        if not faster:
            way.forget(*args, **kwargs)
        return faster

    def _decides(self, choices: Choices, call: str) -> bool:
        """Return whether that call is still to be decided; with more seconds than usual, measured."""
        return call not in choices.known or (self._again and choices.known[call] is None)

    def _decide(self, choices: Choices, call: str, way: Choice, func: Any, args: Any, kwargs: Any) -> None:
        """Measure the call where time is left, and keep what came of it."""
        if not self._decides(choices, call):  # by another thread, meanwhile
            return
        started, taken = time.perf_counter(), None
        try:
            taken = measured(way.run, func, args, kwargs, self.left)
        except Exception as error:  # whatever is wrong, the call itself will say so
            log.debug("tune: %s could not be timed: %s", call, error)
        choices.add(call, taken)
        self.left -= time.perf_counter() - started


def must_repeat() -> bool:
    """Return whether nothing may depend on times, or be timed.

    So it is on request, in processes that work together, and where somebody looks at each kernel.
    """
    asked = torch.are_deterministic_algorithms_enabled() or processes.world() > 1
    return asked or count_dispatch_modes() > 0 or is_profiled()


def is_faster(taken: Seconds | None, expected: bool) -> bool:
    """Return whether the way is faster, by what was measured and expected."""
    if taken is None:
        return expected
    way, plain = taken
    return way * MARGIN < plain if expected else way < plain * MARGIN


def follows(x: Tensor) -> bool:
    """Return whether a gradient is recorded."""
    return torch.is_grad_enabled() and x.requires_grad


def described(name: str, func: Any, args: Any, kwargs: Any) -> str | None:
    """Return what the time of a call depends on; None where there is more to it than that."""
    x, *others = args
    layout = _layout(x)
    rows = 1 << max(len(x) - 1, 0).bit_length()
    told = [_told(each) for each in others] + [f"{key}={_told(kwargs[key])}" for key in sorted(kwargs)]
    if layout is None or any("?" in each for each in told):
        return None
    kind = "gradient" if follows(x) else "logits"
    shape = "x".join(map(str, (rows, *x.shape[1:])))
    words = (name, func.__name__, str(x.dtype).removeprefix("torch."), shape, layout, *told, kind)
    return f"{' '.join(filter(None, words))}, threads {torch.get_num_threads()}"


def _layout(x: Tensor) -> str | None:
    if x.is_contiguous():
        return "contiguous"
    return "channels-last" if x.is_contiguous(memory_format=torch.channels_last) else None


def _told(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Tensor):
        return "x".join(map(str, value.shape))
    return json.dumps(value) if isinstance(value, int | float | str | tuple) else "?"


def measured(way: Any, func: Any, args: Any, kwargs: Any, most: float) -> Seconds | None:
    """Return the least seconds of a call in either way, with its input gradient where one is recorded.

    None as soon as more than `most` would be taken in all. What a call does in place it does not do here.
    """
    x, *others = args
    rest = [False if other is True else other for other in others]
    named = {key: False if value is True else value for key, value in kwargs.items()}
    gradient = follows(x)
    began = time.perf_counter()
    as_it_is, other_way = list[float](), list[float]()
    with torch.inference_mode(False), torch.set_grad_enabled(gradient), without_modes():
        leaf = x.detach().requires_grad_(gradient)
        while len(other_way) < LEAST_TURNS or time.perf_counter() - began < SHORT:
            for run, times in ((func, as_it_is), (way, other_way)):
                started = time.perf_counter()
                if started - began + 2 * min(as_it_is, default=0.0) * (LEAST_TURNS - len(times)) > most:
                    return None
                out = run(leaf, *rest, **named)
                if out is NotImplemented:
                    return None
                if gradient:
                    torch.autograd.grad(out, leaf, torch.ones_like(out))
                times.append(time.perf_counter() - started)
    return min(other_way[1:]), min(as_it_is[1:])
