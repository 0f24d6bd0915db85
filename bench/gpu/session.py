"""What the stages of `make gpu` share: cases, the clock, the ceilings of this machine, rows as they come.

On a machine without a GPU the same cases run on the CPU at tiny sizes, which tests the script and measures
nothing.
"""

import gc
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.timing import quantiles, ratio
from fastadv.engine.precision import PRECISIONS, Precision, has_tf32

Row = dict[str, Any]
Ways = Mapping[str, Callable[[], object]]
Kind = TypeVar("Kind")

ROOT = Path(__file__).resolve().parents[2]
MOST_SETS = 64  # input sets that a measurement takes in turn
LEAST_RUN, MOST_ROUNDS = 2.0, 500  # milliseconds that a timed run takes, within so many rounds
CACHE = 1 << 26  # bytes of cache assumed where the device does not say


class Skip(Exception):
    """Why a case cannot run here; it is reported and no failure."""


@dataclass(frozen=True)
class Case:
    """One unit of work: it is skipped, fails, or is resumed as a whole. `needs` seconds must be left."""

    name: str
    run: Callable[[], Iterator[Row]]
    needs: float = 5.0


@dataclass
class Session:
    """One run of one stage.

    seconds   spent on each measurement, at least
    deadline  on `time.monotonic`'s clock
    """

    device: torch.device
    tiny: bool
    seconds: float
    deadline: float
    data_dir: Path | None = None  # holds MNIST/raw and cifar10
    weights: Path | None = None  # the published vanilla_cnn.net
    official: Path | None = None  # holds the published ABS_0.net to ABS_9.net
    notes: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)  # ops whose check has passed

    def size(self, full: Kind, tiny: Kind) -> Kind:
        return tiny if self.tiny else full

    def left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def note(self, text: str) -> None:
        """Say once what was left out, and why."""
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
    def ceilings(self) -> "Ceilings":
        return Ceilings.measured(self)

    def timed(self, call: Callable[[], object]) -> float:
        """Milliseconds of one call, on the device's own clock where it has one."""
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
        """Milliseconds of each repetition of each way.

        They take turns until each has run for `seconds` and `least` times, or the stage's time is used up.
        Every way has been warmed up before.
        """
        taken: dict[str, list[float]] = {name: [] for name in ways}
        while True:
            for name, way in ways.items():
                taken[name].append(self.timed(way))
            times, runs = map(sum, taken.values()), map(len, taken.values())
            if (min(runs) >= least and min(times) >= 1000 * self.seconds) or self.left() <= 0:
                return taken

    def warmed(self, way: Callable[[], object]) -> dict[str, float]:
        """Call `way` twice; the memory it takes beyond what was held before, in MiB, where it can be told."""
        if not self.cuda:
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

    def compare(self, ways: Ways, base: str, least: int = 5) -> Iterator[tuple[str, Row, list[float]]]:
        """(name, figures, milliseconds) of each way; a way that fails has its error for figures.

        The figures are the quantiles, the peak memory, and how many times faster than `base` the way is.
        """
        memory: dict[str, Row] = {}
        for name, way in ways.items():
            try:
                memory[name] = self.warmed(way)
            except Exception as error:
                if self.dead():
                    raise
                yield name, {"error": said(error)}, []
        taken = self.times({name: ways[name] for name in memory}, least) if memory else {}
        for name, values in taken.items():
            faster = {f"times_{slug(base)}": round(ratio(taken[base], values), 2)} if base in taken else {}
            yield name, {**quantiles(values), **memory[name], **faster, "turns": len(values)}, values

    def rotating(
        self, call: Callable[..., object], sets: Sequence[tuple[Any, ...]], captured: bool = True
    ) -> tuple[Callable[[], object], int]:
        """(run, calls): a run makes so many calls, each on the next of `sets`.

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
        rounds = math.ceil(self.size(LEAST_RUN, 0.0) / max(self.timed(once), 1e-3))
        rounds = max(1, min(MOST_ROUNDS, rounds))

        def run() -> None:
            for _ in range(rounds):
                once()

        return run, rounds * len(sets)

    def sets(self, make: Callable[[int], tuple[Any, ...]], moved: int) -> list[tuple[Any, ...]]:
        """Enough inputs `make(seed)` of `moved` bytes each that together they exceed the cache twice."""
        if not self.cuda:
            return [make(0)]
        cache = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", CACHE) or CACHE
        return [make(seed) for seed in range(max(2, min(MOST_SETS, -(-2 * cache // max(1, moved)))))]

    def clear(self) -> None:
        """Give back what the last case held, so that the next one has the memory."""
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


@dataclass(frozen=True)
class Ceilings:
    """What this machine can do, as measured in this run: bytes copied, and matrix products by precision."""

    copy_gb_per_s: float
    tflops: dict[str, float]

    @classmethod
    def measured(cls, session: Session) -> "Ceilings":
        size = session.size(1 << 28, 1 << 14)  # 1 GiB of float32
        source, target = session.rand(size), torch.empty(size, device=session.device)
        copy = _median(session, lambda: target.copy_(source))
        side = session.size(8192, 64)
        before = torch.get_float32_matmul_precision()
        rates = {}
        for name, dtype, precision in (
            ("fp32", torch.float32, "highest"),
            ("tf32", torch.float32, "high"),
            ("bf16", torch.bfloat16, "highest"),
            ("fp16", torch.float16, "highest"),
        ):
            left, right = (session.randn(side, side, seed=seed).to(dtype) for seed in range(2))
            product = torch.empty(side, side, dtype=dtype, device=session.device)
            try:
                torch.set_float32_matmul_precision(precision)
                taken = _median(session, lambda a=left, b=right, c=product: torch.mm(a, b, out=c))
            finally:
                torch.set_float32_matmul_precision(before)
            rates[name] = 2 * side**3 / taken / 1e9
        return cls(2 * source.nbytes / copy / 1e6, rates)

    def share_of_copy(self, moved: int, milliseconds: float) -> Row:
        """The rate of `moved` bytes, and its share of the copy's."""
        rate = moved / milliseconds / 1e6
        return {"gb_per_s": _short(rate), "share": round(rate / self.copy_gb_per_s, 3), "share_of": "copy"}

    def share_of_products(self, flops: float, milliseconds: float, precision: str) -> Row:
        """The rate of `flops`, and its share of the matrix product's in `precision`."""
        rate = flops / milliseconds / 1e9
        return {
            "tflop_per_s": _short(rate),
            "share": round(rate / self.tflops[precision], 3),
            "share_of": f"{precision} product",
        }


def ceilings(session: Session) -> Iterator[Row]:
    """The ceilings as rows."""
    found = session.ceilings
    yield {"provider": "copy", "gb_per_s": _short(found.copy_gb_per_s)}
    for precision, rate in found.tflops.items():
        yield {"provider": f"{precision} product", "tflop_per_s": _short(rate)}


def precisions(session: Session) -> tuple[Precision, ...]:
    """Those in which a search can compute here."""
    return PRECISIONS if has_tf32(session.device) else tuple(name for name in PRECISIONS if name != "tf32")


def conv_precision(session: Session) -> str:
    """What torch multiplies float32 convolutions in here, for every provider alike."""
    return "tf32" if session.cuda and torch.backends.cudnn.allow_tf32 else "fp32"


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """float32 convolutions in float32, so that the references are no rougher than the kernels."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def repeatable() -> Iterator[None]:
    """The same algorithms in every run, and NaN in fresh memory, so that what nobody writes shows."""
    cudnn, strict = torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = cudnn
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def slug(name: str) -> str:
    return name.replace(" ", "_").replace(",", "")


def said(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def source_hash() -> str:
    """Hash of all that can change a figure, so that resumed runs are of the same code."""
    digest = hashlib.sha256()
    for pattern in ("fastadv/**/*.py", "fastadv/**/*.json", "csrc/**/*.*", "bench/**/*.py"):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _median(session: Session, call: Callable[[], object]) -> float:
    call()
    call()
    return median(session.times({"": call}, least=5)[""])


def _short(value: float) -> float:
    return float(f"{value:.4g}")
