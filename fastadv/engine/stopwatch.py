"""How long a call of a function of torch takes, as it is and in another way."""

import json
import time
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
    return json.dumps(value) if isinstance(value, int | float | str | tuple) else "?"


def measured(way: Any, func: Any, args: Any, kwargs: Any, most: float) -> Seconds | None:
    """Return the least seconds of a call in either way, with its input gradient where one is recorded.

    Both are the same unless one way is faster in every turn. None as soon as more than `most` would be taken
    in all. What a call does in place it does not do here.
    """
    x, *others = args
    rest = [False if other is True else other for other in others]
    named = {key: False if value is True else value for key, value in kwargs.items()}
    gradient = follows(x)
    began = time.perf_counter()
    as_it_is, other_way = list[float](), list[float]()
    with torch.inference_mode(False), torch.set_grad_enabled(gradient), without_modes():
        leaf = x.detach().requires_grad_(gradient)
        while len(other_way) < LEAST_TURNS or time.perf_counter() - began < min(SHORT, most):
            for run, times in ((func, as_it_is), (way, other_way)):
                started = time.perf_counter()
                rest_of_it = 2 * min(as_it_is, default=0.0) * max(LEAST_TURNS - len(times), 0)
                if started - began + rest_of_it >= most:
                    return None
                out = run(leaf, *rest, **named)
                if out is NotImplemented:
                    return None
                if gradient:
                    torch.autograd.grad(out, leaf, torch.ones_like(out))
                times.append(time.perf_counter() - started)
    return agreed(other_way[1:], as_it_is[1:])


def agreed(one: list[float], other: list[float]) -> Seconds:
    """Return the least of either; the same for both unless one is less in every turn."""
    least = min(one), min(other)
    won = {a < b for a, b in zip(one, other, strict=True)}
    return least if len(won) == 1 else (min(least), min(least))
