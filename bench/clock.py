"""The device that is measured: whose sizes are used, and how long a call takes on it."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Ways = Mapping[str, Callable[[], object]]
Kind = TypeVar("Kind")

SHARES = 3.0  # on a CPU all ways together take at most so many times their share of the time


@dataclass
class Clock:
    """A device and its clock.

    tiny      the cases of a GPU, at sizes that only test the benchmark
    seconds   spent on each measurement, at least
    deadline  on `time.monotonic`'s clock
    """

    device: torch.device
    tiny: bool = False
    seconds: float = 1.0
    deadline: float = math.inf

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def on_cpu(self) -> bool:
        """Whether the cases and sizes are those of a CPU."""
        return not (self.tiny or self.cuda)

    def size(self, gpu: Kind, tiny: Kind, cpu: Kind | None = None) -> Kind:
        """Choose the value for the device; on a CPU the GPU's unless another is given."""
        if self.tiny:
            return tiny
        return gpu if self.cuda or cpu is None else cpu

    @property
    def precisions(self) -> tuple[Any, ...]:
        """Those in which a search can compute here; on a CPU the two that gain."""
        if self.on_cpu:
            return ("fp32", "bf16")
        from fastadv._tf32 import has_tf32
        from fastadv.engine.precision import AUTO, PRECISIONS

        left = {AUTO} if has_tf32(self.device) else {AUTO, "tf32"}
        return tuple(name for name in PRECISIONS if name not in left)

    @property
    def conv_precision(self) -> str:
        """That of torch's float32 convolutions here, the same for every provider."""
        return "tf32" if self.cuda and torch.backends.cudnn.allow_tf32 else "fp32"

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def rand(self, *shape: int, seed: int = 0) -> Tensor:
        return torch.rand(shape, generator=self._draw(seed), device=self.device)

    def randn(self, *shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=self._draw(seed), device=self.device)

    def _draw(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def timed(self, call: Callable[[], object]) -> float:
        """Measure the milliseconds of one call, on the device's own clock where it has one."""
        if not self.cuda:
            start = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def times(self, ways: Ways, least: int = 5) -> dict[str, list[float]]:
        """Measure the milliseconds of each repetition of each way; all ways must be warm.

        They take turns, so that other work on the machine slows all alike, until each has run for `seconds`
        and `least` times, or the stage's time is used up.
        """
        taken: dict[str, list[float]] = {name: [] for name in ways}
        most = SHARES * len(ways) * self.seconds if self.on_cpu else math.inf
        while True:
            for name, way in ways.items():
                taken[name].append(self.timed(way))
            spent, runs = [sum(values) / 1000 for values in taken.values()], map(len, taken.values())
            enough = min(spent) >= self.seconds or sum(spent) >= most
            if (min(runs) >= least and enough) or self.left() <= 0:
                return taken


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
    wait = torch.cuda.synchronize if torch.cuda.is_available() else int
    wait()
    start = time.perf_counter()
    result = way()
    wait()
    return time.perf_counter() - start, result


def forward_flops(net: nn.Module, x: Tensor) -> int:
    """Count the operations of a forward pass; an input gradient takes as many again."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return int(counter.get_total_flops())


def said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
