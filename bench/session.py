"""One run of the benchmark on one device: its data, its ceilings, and how ways are compared.

On a machine without a GPU the cases of `make gpu` run on the CPU at tiny sizes, which tests the benchmark and
measures nothing.
"""

import gc
import importlib
import math
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from bench.clock import Ceilings, Clock, Kind, Ways, quantiles, ratio, said
from bench.records import Row

MOST_SETS = 64  # input sets that a measurement on a GPU takes in turn
LEAST_RUN, MOST_ROUNDS = 2.0, 500  # milliseconds that a timed run on a GPU takes, within so many rounds
CACHE = 1 << 26  # bytes of cache assumed where the device does not say
LONG = 1.0  # seconds: on a CPU, what takes longer is warm after one call


class Skip(Exception):
    """Skips a case, with the reason; the case is reported and does not count as a failure."""


@dataclass(frozen=True)
class Case:
    """One unit of work: it is skipped, fails, or is resumed as a whole. `needs` seconds must be left."""

    name: str
    run: Callable[[], Iterator[Row]]
    needs: float = 5.0


@dataclass
class Session(Clock):
    """One run on one device; `limit` test images for the whole of ABS, at most."""

    data_dir: Path | None = None  # holds MNIST/raw and cifar10
    weights: Path | None = None  # the published vanilla_cnn.net
    official: Path | None = None  # holds the published ABS_0.net to ABS_9.net
    limit: int = 10_000
    notes: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)  # ops whose check has passed

    def note(self, text: str) -> None:
        """Print once what was left out, and why."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"note: {text}", flush=True)

    @cached_property
    def ceilings(self) -> Ceilings:
        return Ceilings.measured(self)

    def share_of_products(self, flops: float, milliseconds: float, precision: str) -> Row:
        """Compare with the product rate of a GPU; return nothing on a CPU."""
        return {} if self.on_cpu else self.ceilings.share_of_products(flops, milliseconds, precision)

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
            found, failed = self.tried(name, partial(self.warmed, (warm or ways)[name]))
            if found is None:
                yield failed, []
            else:
                memory[name] = found
        taken = self.times({name: ways[name] for name in memory}, least) if memory else {}
        for name, values in taken.items():
            row = {"provider": name, **quantiles(values), **memory[name]}
            row |= {column: round(ratio(taken[base], values), 2)} if base in taken else {}
            yield row | {"turns": len(values)}, values

    def rotating(
        self, call: Callable[..., object], sets: Sequence[tuple[Any, ...]], captured: bool = True
    ) -> tuple[Callable[[], object], int]:
        """Return (run, calls): a run makes so many calls, each on the next of `sets`, a CUDA graph if it may.

        A graph leaves out the gaps between launches, enough sets the cache, enough rounds the start of a run.
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


def cases_of(stage: str, session: Session) -> list[Case]:
    """List the cases of a subject, the ceilings first; on a CPU only the ops are compared with them."""
    cases: list[Case] = [*importlib.import_module(f"bench.subjects.{stage}").cases(session)]
    if stage == "ops" or (stage not in ("loop", "correctness") and not session.on_cpu):
        cases.insert(0, Case("ceilings", lambda: session.ceilings.rows()))
    return cases


def run_stage(
    stage: str, session: Session, write: Callable[[Row], None], skip: Collection[tuple[str, str]] = (),
    only: str = "", mark: Callable[[str], object] = lambda case: None,
) -> bool:  # fmt: skip
    """Run the cases of a subject that `skip` does not name and whose name holds `only`.

    Every row goes to `write`, and one row with a status after each case. False where an error has left the
    GPU unusable for this process.
    """
    kept = 0
    for case in cases_of(stage, session):
        if only not in case.name and case.name != "ceilings":
            continue
        if (stage, case.name) in skip and case.name != "ceilings":
            kept += 1
            continue
        ending: Row = {"stage": stage, "case": case.name}
        if session.left() < case.needs and not session.tiny:
            why = f"{max(0, session.left()):.0f} s of the stage's time left, {case.needs:.0f} needed"
            write(ending | {"status": "skipped", "why": why})
            continue
        mark(case.name)
        started, lost = time.monotonic(), False
        try:
            for row in case.run():
                write({"stage": stage, "case": case.name, **row})
            ending["status"] = "done"
        except Skip as error:
            ending |= {"status": "skipped", "why": str(error)}
        except Exception as error:
            traceback.print_exc()
            ending |= {"status": "failed", "why": said(error)}
            lost = session.dead()
        write(ending | {"seconds": round(time.monotonic() - started, 2)})
        if lost:
            return False
        session.clear()
    if kept:
        print(f"{stage}: {kept} cases were done before by the same code here; --again repeats them")
    return True
