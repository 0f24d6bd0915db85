"""How long a call of a function of torch takes, as it is and in another way."""

import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv._torch import without_modes
from fastadv.engine.choices import Seconds

# either way is timed so often, of which the first time warms up, and more often within SHORT seconds
LEAST_TURNS, SHORT = 4, 0.02
MANY = 64
GRADIENT, LOGITS = "gradient", "logits"  # kinds of calls


def follows(x: Tensor) -> bool:
    """Return whether a gradient of it is recorded."""
    return torch.is_grad_enabled() and x.requires_grad


def described(name: str, func: Any, args: Any, kwargs: Any) -> str | None:
    """Return what the time of a call depends on; None where there is more to it than that.

    name: of the other way. Sizes of batches up to the same power of two are alike, and all beyond MANY.
    """
    if not args:
        return None
    x, *others = args
    layout = _layout(x)
    rows = min(1 << max(len(x) - 1, 0).bit_length(), MANY)
    told = [_told(each) for each in others] + [f"{key}={_told(kwargs[key])}" for key in sorted(kwargs)]
    if layout is None or any("?" in each for each in told):
        return None
    kind = GRADIENT if follows(x) else LOGITS
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
    known = isinstance(value, int | float | str | tuple)
    return json.dumps(value, default=lambda part: "?") if known else "?"


def in_turns(
    runs: Sequence[Callable[[], object]],
    turns: int,
    most: float = math.inf,
    *,
    short: float = 0.0,
    costs: Sequence[float] = (),
) -> list[list[float]] | None:
    """Return the seconds of each run, in so many turns of all, and in more of them within `short` seconds.

    None as soon as more than `most` would be taken in all. costs: of the runs relative to the first (1 unless
    given), to foresee that.
    """
    began, a_turn = time.perf_counter(), sum(costs or [1.0] * len(runs))
    taken: list[list[float]] = [[] for _ in runs]
    while len(taken[-1]) < turns or time.perf_counter() - began < min(short, most):
        for run, times in zip(runs, taken, strict=True):
            started = time.perf_counter()
            rest = a_turn * min(taken[0], default=0.0) * max(turns - len(times), 0)
            if started - began + rest >= most:
                return None
            run()
            times.append(time.perf_counter() - started)
    return taken


def measured(way: Any, func: Any, args: Any, kwargs: Any, most: float) -> Seconds | None:
    """Return the least seconds of a call in either way, with its input gradient where one is recorded.

    Both are the same unless one way is faster in two of three turns. None as soon as more than `most` would
    be taken in all, and where the way declines the call. What a call does in place it does not do here.
    """
    x, *others = args
    rest = [False if other is True else other for other in others]
    named = {key: False if value is True else value for key, value in kwargs.items()}
    gradient = follows(x)

    def run(call: Any) -> None:
        out = call(leaf, *rest, **named)
        if out is NotImplemented:
            raise _DeclinedError
        if gradient:
            torch.autograd.grad(out, leaf, torch.ones_like(out))

    with torch.inference_mode(False), torch.set_grad_enabled(gradient), without_modes():
        leaf = x.detach().requires_grad_(gradient)
        try:
            taken = in_turns([partial(run, func), partial(run, way)], LEAST_TURNS, most, short=SHORT)
        except _DeclinedError:
            return None
    return None if taken is None else agreed(taken[1][1:], taken[0][1:])


class _DeclinedError(Exception):
    """A way does not suit the call after all."""


def agreed(one: list[float], other: list[float]) -> Seconds:
    """Return the least of either; the same for both unless the faster by it wins two of three turns."""
    least = min(one), min(other)
    faster, slower = (one, other) if least[0] < least[1] else (other, one)
    won = sum(a < b for a, b in zip(faster, slower, strict=True))
    return least if 3 * won >= 2 * len(one) else (min(least), min(least))
