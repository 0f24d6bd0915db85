"""The parts of `make gpu` that only a GPU would run, with a stand-in for torch.cuda on the CPU."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu_runs import CPU, ends

from bench.gpu import attacks as gpu_attacks
from bench.gpu import correctness as gpu_correctness
from bench.gpu import ops as gpu_ops
from bench.gpu import worker as gpu_worker
from bench.gpu.session import Row, Session
from fastadv.ops.registration.library import CARDS, triton_launcher

triton = pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU `make gpu` itself runs them"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy, in the interpreter
]


class StandIn(Session):
    """Takes the ways of a GPU, at tiny sizes, on the CPU."""

    @property
    def cuda(self) -> bool:
        return True


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = math.nan

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        assert not math.isnan(self.at)

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.at - self.at)


class Graph:
    """Records nothing, so that its replay writes nothing."""

    def replay(self) -> None:
        pass


@contextmanager
def capture(graph: Graph) -> Iterator[None]:
    yield


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    from bench.gpu.interpreter import patched

    def nothing(*args: Any) -> None:
        return None

    for name, value in {
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": capture,
        "synchronize": nothing,
        "empty_cache": nothing,
        "reset_peak_memory_stats": nothing,
        "memory_allocated": lambda device: 3 << 20,
        "max_memory_allocated": lambda device: 5 << 20,
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=3000),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    with patched():
        yield StandIn(CPU, True, 0.0, time.monotonic() + 60)


def ran(session: StandIn, stage: str, only: str) -> list[Row]:
    rows: list[Row] = []
    assert gpu_worker.run_stage(stage, session, rows.append, set(), only)
    assert "failed" not in ends(rows).values(), rows
    return rows


def test_an_op_against_eager_and_compiled(session: StandIn) -> None:
    rows = [row for row in ran(session, "ops", "linf_step CIFAR 4x3x4x4 float32") if "p50_ms" in row]
    assert {row["provider"] for row in rows} == {"fastadv", "eager", "torch.compile"}
    # 4 x 48 floats, read three times and written once, twice the cache
    assert {row["sets"] for row in rows} == {math.ceil(2 * 3000 / (4 * 4 * 4 * 48))}
    assert {row["peak_mib"] for row in rows} == {2.0}
    assert next(row for row in rows if row["provider"] == "fastadv")["share_of"] == "copy"


def test_times_are_of_one_call(session: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "rotating", lambda call, sets, captured: (bool, 8))
    monkeypatch.setattr(session, "times", lambda runs, **rest: {name: [16.0, 24.0, 32.0] for name in runs})
    monkeypatch.setattr(gpu_ops, "gate", lambda session, name: None)
    problem = next(p for p in gpu_ops.problems(session) if p.op == "linf_step")
    rows = list(gpu_ops.measured(session, problem))
    assert {(row["p20_ms"], row["p50_ms"], row["p80_ms"]) for row in rows} == {(2.0, 3.0, 4.0)}
    moved = CARDS["linf_step"].bytes_moved(*problem.make(0))
    assert rows[0]["gb_per_s"] == pytest.approx(moved / 3e-3 / 1e9, rel=1e-3)


def test_the_fastest_width_wins(session: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadv.ops.triton import _tuned

    def timed(session: Session, name: str, sets: list[Any]) -> float:
        width = _tuned._tried.get("l2_step_kernel", _tuned.Width(1024, 8))
        return {256: 0.5, 1024: 1.0}.get(width.BLOCK, 0.9)

    monkeypatch.setattr(gpu_ops, "_time", timed)
    *tried, winner = gpu_ops.tuned(session, "l2_step")
    assert {row["provider"]: row["times_default"] for row in tried} == {
        f"{block}/{warps}": {256: 2.0, 1024: 1.0}.get(block, 1.111) for block, warps in gpu_ops.WIDTHS
    }
    assert winner["width"] == {"BLOCK": 256, "num_warps": 2}
    assert winner["kernel"] == "l2_step_kernel"
    assert winner["times_default"] == 2.0
    monkeypatch.setattr(gpu_ops, "_time", lambda *args: 1.0)
    assert list(gpu_ops.tuned(session, "l2_step"))[-1]["width"] is None


def test_a_width_with_another_result_cannot_win(session: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadv.ops.triton import _tuned

    monkeypatch.setattr(gpu_ops, "_time", lambda *args: 0.1 if _tuned._tried else 1.0)
    monkeypatch.setattr(gpu_ops, "_result", lambda name, problem: torch.full((2,), float(len(_tuned._tried))))
    *tried, winner = gpu_ops.tuned(session, "linf_step")
    assert all("differ" in row["error"] for row in tried)
    assert winner["width"] is None


def test_every_tunable_kernel_has_that_name(session: StandIn) -> None:
    import importlib

    for name in gpu_ops.TUNABLE:
        module = importlib.import_module(f"fastadv.ops.triton.{name.rstrip('_')}")
        assert hasattr(module, f"{name.rstrip('_')}_kernel")


def test_a_replay_that_writes_nothing_is_noticed(session: StandIn) -> None:
    args = next(a for a in CARDS["linf_step"].samples(CPU, torch.float32) if a[0].shape == (3, 7))
    launch = triton_launcher(CARDS["linf_step"])
    assert launch is not None
    with pytest.raises(AssertionError, match="a replayed graph differs"):
        gpu_correctness.replayed(CARDS["linf_step"], launch, args)


def test_pgd_with_memory_and_without_graphs(session: StandIn) -> None:
    rows = {row["provider"]: row for row in gpu_attacks.pgd(session, "MLP 784-256-10")}
    assert {"eager", "fastadv fp32", "fastadv bf16", "ideal fp32"} <= rows.keys()
    assert {row["peak_mib"] for row in rows.values()} == {2.0}
    assert any("no CUDA graphs: InputError" in note for note in session.notes)


def test_a_lost_gpu_is_told(session: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not session.dead()

    def raises(device: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", raises)
    assert session.dead()


def test_what_cannot_be_captured_is_called(session: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refused(graph: Graph) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    seen: list[int] = []
    run, calls = session.rotating(seen.append, [(1,), (2,)])
    del seen[:]
    run()
    assert seen == []  # a replay, here of nothing
    monkeypatch.setattr(torch.cuda, "graph", refused)
    run, calls = session.rotating(seen.append, [(1,), (2,)])
    del seen[:]
    run()
    assert (seen, calls) == ([1, 2], 2)
    assert any("not captured" in note for note in session.notes)
