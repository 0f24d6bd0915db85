"""One run of the benchmark on one device, which decides sizes, clock, and what is measured besides.

On a machine without a GPU the cases of `make gpu` run on the CPU at tiny sizes, which tests the benchmark and
measures nothing.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.ceilings import Ceilings
from bench.records import Row
from bench.timing import quantiles, ratio

Ways = Mapping[str, Callable[[], object]]
Kind = TypeVar("Kind")

MOST_SETS = 64  # input sets that a measurement on a GPU takes in turn
LEAST_RUN, MOST_ROUNDS = 2.0, 500  # milliseconds that a timed run on a GPU takes, within so many rounds
CACHE = 1 << 26  # bytes of cache assumed where the device does not say
LONG = 1.0  # seconds: on a CPU, what takes longer is warm after one call
SHARES = 3.0  # on a CPU all ways together take at most so many times their share of the time


class Skip(Exception):
    """Skips a case, with the reason; the case is reported and does not count as a failure."""


@dataclass(frozen=True)
class Case:
    """One unit of work: it is skipped, fails, or is resumed as a whole. `needs` seconds must be left."""

    name: str
    run: Callable[[], Iterator[Row]]
    needs: float = 5.0


@dataclass
class Session:
    """One run on one device.

    tiny      the cases of a GPU, at sizes that only test the benchmark
    seconds   spent on each measurement, at least
    deadline  on `time.monotonic`'s clock
    limit     test images for the whole of ABS, at most
    """

    device: torch.device
    tiny: bool = False
    seconds: float = 1.0
    deadline: float = math.inf
    data_dir: Path | None = None  # holds MNIST/raw and cifar10
    weights: Path | None = None  # the published vanilla_cnn.net
    official: Path | None = None  # holds the published ABS_0.net to ABS_9.net
    limit: int = 10_000
    notes: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)  # ops whose check has passed

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

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def note(self, text: str) -> None:
        """Print once what was left out, and why."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"note: {text}", flush=True)

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def rand(self, *shape: int, seed: int = 0) -> Tensor:
        return torch.rand(shape, generator=self._draw(seed), device=self.device)

    def randn(self, *shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=self._draw(seed), device=self.device)

    def _draw(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    @cached_property
    def ceilings(self) -> Ceilings:
        return Ceilings.measured(self)

    def share_of_products(self, flops: float, milliseconds: float, precision: str) -> Row:
        """Compare with the product rate of a GPU; return nothing on a CPU."""
        return {} if self.on_cpu else self.ceilings.share_of_products(flops, milliseconds, precision)

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

    def warmed(self, way: Callable[[], object]) -> Row:
        """Call `way` twice. Returns the peak memory it adds, in MiB, where the device tells it."""
        if not self.cuda:
            if self.timed(way) < 1000 * LONG and not self.tiny:
                way()
            return {}
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        held = torch.cuda.memory_allocated(self.device)
        way()
        self.synchronize()
        peak = torch.cuda.max_memory_allocated(self.device) - held
        way()
        self.synchronize()
        return {"peak_mib": round(peak / 2**20, 1)}

    def tried(self, provider: str, call: Callable[[], Kind]) -> tuple[Kind | None, Row]:
        """Return (result, {}) or (None, row with the error); raise an error that has cost the GPU."""
        try:
            return call(), {}
        except Exception as error:
            if self.dead():
                raise
            return None, {"provider": provider, "error": said(error)}

    def compare(
        self, ways: Ways, base: str, column: str = "times_eager", least: int = 5, warm: Ways | None = None
    ) -> Iterator[tuple[Row, list[float]]]:
        """Yield (row, milliseconds) of each way; a way that fails has its error in the row and no times.

        A row has the quantiles, the peak memory where the device tells it, and as `column` how many times
        faster than `base` the way is. `warm` replaces the ways for warming up, where these are long.
        """
        memory: dict[str, Row] = {}
        for name in ways:
            found, failed = self.tried(name, lambda name=name: self.warmed((warm or ways)[name]))
            if found is None:
                yield failed, []
            else:
                memory[name] = found
        taken = self.times({name: ways[name] for name in memory}, least) if memory else {}
        for name, values in taken.items():
            faster = {column: round(ratio(taken[base], values), 2)} if base in taken else {}
            yield (
                {"provider": name, **quantiles(values), **memory[name], **faster, "turns": len(values)},
                values,
            )

    def rotating(
        self, call: Callable[..., object], sets: Sequence[tuple[Any, ...]], captured: bool = True
    ) -> tuple[Callable[[], object], int]:
        """Return (run, calls): a run makes so many calls, each on the next of `sets`.

        Where `captured` and possible they are one CUDA graph, which leaves out the gaps between launches.
        Enough sets leave out the cache, and enough rounds over them the start of a run.
        """

        def each() -> None:
            for args in sets:
                call(*args)

        each()
        once: Callable[[], object] = each
        if self.cuda and captured:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    each()
                once = graph.replay
            except RuntimeError as error:
                if self.dead():
                    raise
                self.note(f"not captured, so launches count: {said(error)}")
        once()
        rounds = math.ceil(self.size(LEAST_RUN, 0.0, 0.0) / max(self.timed(once), 1e-3))
        rounds = max(1, min(MOST_ROUNDS, rounds))

        def run() -> None:
            for _ in range(rounds):
                once()

        return run, rounds * len(sets)

    def sets(self, make: Callable[[int], tuple[Any, ...]], moved: int) -> list[tuple[Any, ...]]:
        """Make inputs `make(seed)` of `moved` bytes each, enough to exceed a GPU's cache twice."""
        if not self.cuda:
            return [make(0)]
        cache = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", CACHE) or CACHE
        return [make(seed) for seed in range(max(2, min(MOST_SETS, -(-2 * cache // max(1, moved)))))]

    def clear(self) -> None:
        """Free what the last case held."""
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def dead(self) -> bool:
        """Whether an error has left the GPU unusable for this process."""
        try:
            self.synchronize()
        except RuntimeError:
            return True
        return False


def said(error: BaseException) -> str:
    """Write an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
