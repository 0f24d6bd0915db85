"""Statistics of repeated times, the wall clock, and the operations that a net takes."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Kind = TypeVar("Kind")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the 20th, 50th and 80th percentiles, as p20_ms, p50_ms and p80_ms."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"p{p}_ms": round(ordered[round(p / 100 * last)], 5) for p in (20, 50, 80)}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times faster: the median over turns of slow / fast, both of the same turn."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=False))


def wall(way: Callable[[], Kind]) -> tuple[float, Kind]:
    """Return (seconds, result) of one call on the wall clock, until the GPU has finished its work."""
    synchronize()
    start = time.perf_counter()
    result = way()
    synchronize()
    return time.perf_counter() - start, result


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forward_flops(net: nn.Module, x: Tensor) -> int:
    """Count the operations of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return int(counter.get_total_flops())


def gradient_flops(net: nn.Module, x: Tensor) -> int:
    """Count the operations of a forward pass and an input gradient."""
    flags = [(part, part.requires_grad) for part in net.parameters()]
    point = x.clone().requires_grad_()
    try:
        for part, _ in flags:
            part.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            net(point).sum().backward()
    finally:
        for part, flag in flags:
            part.requires_grad_(flag)
    return int(counter.get_total_flops())
