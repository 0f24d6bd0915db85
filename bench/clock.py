"""The device that is measured: whose sizes are used, and how long a call takes on it."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from bench.records import Row

Ways = Mapping[str, Callable[[], object]]
Kind = TypeVar("Kind")

SHARES = 3.0  # on a CPU all ways together take at most so many times their share of the time


@dataclass
class Clock:
    """A device and its clock."""

    device: torch.device
    tiny: bool = False  # the cases of a GPU, at sizes that only test the benchmark
    seconds: float = 1.0  # spent on each measurement, at least
    deadline: float = math.inf  # on `time.monotonic`'s clock

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def on_cpu(self) -> bool:
        return not (self.tiny or self.cuda)

    def size(self, gpu: Kind, tiny: Kind, cpu: Kind | None = None) -> Kind:
        """Choose the value for the device; on a CPU the GPU's unless another is given."""
        if self.tiny:
            return tiny
        return gpu if self.cuda or cpu is None else cpu

    @property
    def precisions(self) -> tuple[Any, ...]:
        """Those in which a search can compute."""
        from fastadv.engine.precision import PRECISIONS

        return PRECISIONS

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
    return {f"p{p}_ms": round(float(np.percentile(values, p)), 5) for p in (20, 50, 80)}


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


# dtype and torch's float32_matmul_precision
PRODUCTS = {
    "fp32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
    "bf16": (torch.bfloat16, "highest"),
}


@dataclass(frozen=True)
class Ceilings:
    """Gigabytes a second that a copy of `copied` floats moves, and matrix products by precision.

    On a CPU products are measured where they are asked for, in the precisions of a search; in float32 the
    faster of torch's product and its convolution by 1, which oneDNN computes, counts.
    """

    copied: int
    copy_gb_per_s: float
    tflops: dict[str, float]

    @classmethod
    def measured(cls, clock: Clock, *, products: bool = False) -> "Ceilings":
        """Measure the device; `products` asks for those of a CPU, too."""

        def milliseconds(call: Callable[[], object]) -> float:
            call()
            call()
            return median(clock.times({"": call})[""])

        size = clock.size(1 << 28, 1 << 14, 1 << 26)  # 1 GiB of float32
        source, target = clock.rand(size), torch.empty(size, device=clock.device)
        copy = milliseconds(lambda: target.copy_(source))
        side, rates = clock.size(8192, 64, 2048), {}
        before = torch.get_float32_matmul_precision()
        names = clock.precisions if products else ()
        for name in names if clock.on_cpu else PRODUCTS:
            dtype, precision = PRODUCTS[name]
            left, right = (clock.randn(side, side, seed=seed).to(dtype) for seed in range(2))
            try:
                torch.set_float32_matmul_precision(precision)
                taken = min(map(milliseconds, _multiplied(clock, left, right)))
            finally:
                torch.set_float32_matmul_precision(before)
            rates[name] = 2 * side**3 / taken / 1e9
        return cls(size, 2 * source.nbytes / copy / 1e6, rates)

    def share_of_copy(self, moved: int, milliseconds: float) -> Row:
        rate = moved / milliseconds / 1e6
        return {"gb_per_s": _short(rate), "share_of_copy": round(rate / self.copy_gb_per_s, 3)}

    def share_of_products(self, flops: float, milliseconds: float, precision: str) -> Row:
        """Return the rate of `flops`, and its share of the matrix product's in `precision`."""
        rate = flops / milliseconds / 1e9
        share = round(rate / self.tflops[precision], 3)
        return {"tflop_per_s": _short(rate), f"share_of_{precision}_product": share}

    def rows(self) -> Iterator[Row]:
        copy = {"gb_per_s": _short(self.copy_gb_per_s)}
        yield {"what": "copy", "provider": "torch", "shape": [self.copied], **copy}
        for precision, rate in self.tflops.items():
            yield {"what": f"{precision} product", "provider": "torch", "tflop_per_s": _short(rate)}


def _multiplied(clock: Clock, left: Tensor, right: Tensor) -> Iterator[Callable[[], object]]:
    product = torch.empty_like(left)
    yield partial(torch.mm, left, right, out=product)
    if clock.on_cpu and left.dtype == torch.float32:
        lines = left.T[None, :, :, None].contiguous(memory_format=torch.channels_last)
        yield partial(conv2d, lines, right[:, :, None, None])


def _short(value: float) -> float:
    return float(f"{value:.4g}")


@contextmanager
def repeatable() -> Iterator[None]:
    """Compute float32 convolutions in float32, and by the same algorithms in every run.

    Fresh memory is filled with NaN, which shows missing writes.
    """
    cudnn, strict = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    before = cudnn.allow_tf32, cudnn.deterministic
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.allow_tf32, cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
