"""Time several ways of doing one thing in one run: interleaved repetitions, so that a noisy machine is noisy for all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

CUDA = torch.cuda.is_available()


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def times(
    ways: Mapping[str, Callable[[], object]], seconds: float = 1.0, least: int = 7
) -> dict[str, list[float]]:
    """Milliseconds of each repetition of each way; ways take turns until each has `seconds` of work and `least` repetitions."""
    for way in ways.values():
        way()
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    while min(len(t) for t in taken.values()) < least or min(sum(t) for t in taken.values()) < 1000 * seconds:
        for name, way in ways.items():
            synchronize()
            start = time.perf_counter()
            way()
            synchronize()
            taken[name].append(1000 * (time.perf_counter() - start))
    return taken


def quantiles(values: list[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile, as p20_ms, p50_ms and p80_ms."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"p{p}_ms": round(ordered[round(p / 100 * last)], 5) for p in (20, 50, 80)}


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster: the median over turns of slow / fast, each turn's two measured side by side."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=False))
