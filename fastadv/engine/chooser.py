"""Choices between a function of torch and another way to compute it, by what was measured on this machine."""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any

import torch

from fastadv._torch import count_dispatch_modes, is_profiled
from fastadv.engine.choices import Choice, Choices, Seconds, here
from fastadv.engine.stopwatch import GRADIENT, LOGITS, described, measured
from fastadv.errors import InputError
from fastadv.runs import processes

log = logging.getLogger("fastadv")

VARIABLE = "FASTADV_TUNE"
SECONDS = 1.0
# a measurement must contradict what is expected by this much, so that noise seldom does
MARGIN = 0.95

_measuring = RLock()  # times taken side by side would be wrong


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


class Chooser:
    """Chooses how the calls of one model are computed, and takes so many seconds at most to measure them.

    What was decided for a kind of call holds in later processes, so that runs repeat to the bit: a call that
    is met when no time is left goes as expected from then on, until more than the usual seconds are allowed.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        """Take the seconds; with 0 everything goes as expected."""
        self.left, self._again = seconds, seconds > SECONDS
        self._choices = here() if seconds > 0 else None

    def takes(self, name: str, way: Choice, func: Any, args: Any, kwargs: Any) -> bool:
        """Return whether to take that way; `name` is that of its rewrite."""
        expected = way.expected(*args, **kwargs)
        if expected is NotImplemented:
            return False
        if self._choices is None or must_repeat():
            return bool(expected)
        call = described(name, func, args, kwargs)
        taken = None if call is None else self.seconds(call, partial(measured, way.run, func, args, kwargs))
        faster = is_faster(taken, expected) if taken else bool(expected)
        if not faster:
            way.forget(*args, **kwargs)
        return faster

    def seconds(self, call: str, measure: Callable[[float], Seconds | None]) -> Seconds | None:
        """Return what is known of a call, after measuring it where it is new; None where nothing is.

        measure: returns its seconds in another way and as it is, unless more than it is given would be taken.
        """
        choices = self._choices
        if choices is None or must_repeat():
            return None
        if self._decides(choices, call) and choices.keeps and not is_watched():
            with _measuring:
                if self._decides(choices, call):  # or else another thread has, meanwhile
                    self._decide(choices, call, measure)
        return choices.known.get(call)

    def _decides(self, choices: Choices, call: str) -> bool:
        """Return whether that call is still to be measured."""
        return call not in choices.known or (self._again and choices.known[call] is None)

    def _decide(self, choices: Choices, call: str, measure: Callable[[float], Seconds | None]) -> None:
        """Measure the call where time is left, and keep what came of it."""
        started = time.perf_counter()
        try:
            taken = measure(self.left)
            if taken is None:  # what was measured with a gradient is nearer than a guess
                taken = choices.known.get(call.replace(LOGITS, GRADIENT))
            choices.add(call, taken)
        except Exception as error:  # whatever is wrong, the call itself will say so
            log.debug("tune: %s could not be timed: %s", call, error)
            choices.known[call] = None
        self.left -= time.perf_counter() - started


def must_repeat() -> bool:
    """Return whether no result may depend on times: on request, and in processes that work together."""
    return torch.are_deterministic_algorithms_enabled() or processes.world() > 1


def is_watched() -> bool:
    """Return whether somebody looks at each kernel of this thread, and would see those of a measurement."""
    return count_dispatch_modes() > 0 or bool(is_profiled())


def is_faster(taken: Seconds, expected: bool = False) -> bool:
    """Return whether another way is faster, by what was measured and expected."""
    way, plain = taken
    return way * MARGIN < plain if expected else way < plain * MARGIN
