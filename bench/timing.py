"""Time several ways of doing one thing in turns, so that other work on the machine slows all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

CUDA = torch.cuda.is_available()
LONG = 1.0  # seconds: what takes longer is warm after one call
MOST = 3


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def times(
    ways: Mapping[str, Callable[[], object]], seconds: float = 1.0, least: int = 7
) -> dict[str, list[float]]:
    """Milliseconds of each repetition of each way, after a warm-up.

    The ways take turns until each has run at least `least` times and for `seconds`, or all of them together
    for `MOST` times their share.
    """
    for way in ways.values():
        start = time.perf_counter()
        way()
        if time.perf_counter() - start < LONG:
            way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    while True:
        runs, spent = [len(t) for t in taken.values()], [sum(t) / 1000 for t in taken.values()]
        if min(runs) >= least and (min(spent) >= seconds or sum(spent) >= MOST * seconds * len(ways)):
            return taken
        for name, way in ways.items():
            synchronize()
            start = time.perf_counter()
            way()
            synchronize()
            taken[name].append(1000 * (time.perf_counter() - start))


def quantiles(values: list[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentiles, as p20_ms, p50_ms and p80_ms."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"p{p}_ms": round(ordered[round(p / 100 * last)], 5) for p in (20, 50, 80)}


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster: the median over turns of slow / fast, both measured in the same turn."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=False))
