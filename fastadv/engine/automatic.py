"""The precision in which a search is fastest, by measurement: `freeze(precision="auto")`."""

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

from fastadv import rng
from fastadv.engine.precision import Precision
from fastadv.engine.prepared import Prepared
from fastadv.errors import InputError, NoGradientError
from fastadv.runs import processes

P = TypeVar("P", bound=Prepared)

ROUNDS = 3
PASSES = "forwards", "backwards"
# beside the model's own; on a CPU, on a GPU
AUTOMATIC: tuple[tuple[Precision, ...], ...] = ("bf16",), ("tf32", "bf16", "fp16")


def fastest(make: Callable[[Precision], P], x: Tensor) -> tuple[P, str] | None:
    """Find the precision in which gradients at x [B, ...] take least time, and a note on it."""
    if processes.world() > 1:
        raise InputError(
            f"precision: expected one process for 'auto', got a group of {processes.world()}, each of which "
            "might choose another one; measure in one process, and pass the precision that its notes name"
        )
    with rng.torch_seeded(0, x.device):
        ways: dict[Precision, P] = {"fp32": make("fp32")}
        for precision in AUTOMATIC[x.is_cuda]:
            with suppress(InputError):
                ways[precision] = make(precision)
        if not bool(ways["fp32"].verdict(x).isfinite().all(1).any()):
            return None
        try:
            seconds = _seconds(list(ways.values()), x)
        except NoGradientError:
            return ways["fp32"], "precision not measured: the model has no gradient"
    name, best = list(ways.items())[seconds.index(min(seconds))]
    best.forwards, best.backwards = (sum(getattr(way, of) for way in ways.values()) for of in PASSES)
    times = ", ".join(f"{name} {1000 * taken:.3g}" for name, taken in zip(ways, seconds, strict=True))
    return best, f"fastest precision: {name} (ms for {len(x)} samples: {times})"


def _seconds(ways: list[P], x: Tensor) -> list[float]:
    """Return the median time of a gradient in each way."""
    y = ways[0].verdict(x).argmax(1)
    taken: list[list[float]] = [[] for _ in ways]
    # the first turn compares and compiles; the second captures, which the median leaves out
    for _ in range(1 + ROUNDS):
        for way, times in zip(ways, taken, strict=True):
            started = time.perf_counter()
            way.input_gradient(x, y, direction=True)
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return [statistics.median(times[1:]) for times in taken]
