"""The precision in which a search is fastest, by measurement: `freeze(precision="auto")`."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fastadv import rng
from fastadv.engine.frozen import Frozen
from fastadv.engine.precision import Options, Precision
from fastadv.errors import InputError, NoGradientError
from fastadv.runs import processes

ROUNDS = 3
# the model's own precision first; on a CPU, on a GPU
AUTOMATIC: tuple[tuple[Precision, ...], ...] = ("fp32", "bf16"), ("fp32", "tf32", "bf16", "fp16")


def fastest(make: Callable[[Options], Frozen], options: Options, x: Tensor) -> tuple[Frozen, str] | None:
    """Find the precision in which gradients at x [B, ...] take least time, and a note on it."""
    if processes.world() > 1:
        raise InputError(
            f"precision: expected one process for 'auto', got a group of {processes.world()}, each of which "
            "might choose another one; measure in one process, and pass the precision that its notes name"
        )
    with rng.torch_seeded(0, x.device):
        ways = list(_made(make, options, x))
        if not bool(ways[0].verdict(x).isfinite().all(1).any()):
            return None
        try:
            seconds = _seconds(ways, x)
        except NoGradientError:
            return ways[0], "precision not measured: the model has no gradient"
    best = ways[seconds.index(min(seconds))]
    best.forwards, best.backwards = sum(way.forwards for way in ways), sum(way.backwards for way in ways)
    times = ", ".join(
        f"{way.options.precision} {1000 * taken:.3g}" for way, taken in zip(ways, seconds, strict=True)
    )
    return best, f"fastest precision: {best.options.precision} (ms for {len(x)} samples: {times})"


def _made(make: Callable[[Options], Frozen], options: Options, x: Tensor) -> Iterator[Frozen]:
    """Freeze the model in each precision that it can be had in; the first is its own."""
    for place, precision in enumerate(AUTOMATIC[x.device.type == "cuda"]):
        try:
            yield make(replace(options, precision=precision))
        except InputError:
            if not place:
                raise


def _seconds(ways: list[Frozen], x: Tensor) -> list[float]:
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
