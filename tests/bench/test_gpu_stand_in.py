"""The parts of `make gpu` that only a GPU would run, with a stand-in for torch.cuda on the CPU."""

import importlib
import math
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from bench.session import Session
from bench.stage import cases_of
from bench.subjects import correctness, op_sizes, widths
from fastadv.ops.registration.library import CARDS, triton_launcher
from runs import CPU, ran
from runs import session as made

triton = pytest.importorskip("triton", "3.6", reason="Triton 3.6 or later is not installed")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU `make gpu` itself runs them"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy, in the interpreter
]


class StandIn(Session):
    """Takes the ways of a GPU, at tiny sizes, on the CPU."""

    @property
    def cuda(self):
        return True


class Event:
    def __init__(self, enable_timing):
        assert enable_timing
        self.at = math.nan

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        assert not math.isnan(self.at)

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


class Graph:
    """Records nothing, so that its replay writes nothing."""

    def replay(self):
        pass


@contextmanager
def capture(graph):
    yield


@pytest.fixture
def session(monkeypatch):
    from tests.triton_interpreter import patched

    def nothing(*args):
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
        yield made(StandIn)


@pytest.mark.slow
def test_an_op_against_eager_and_compiled(session):
    rows = [row for row in ran(session, "ops", "linf_step CIFAR 4x3x4x4 float32") if "p50_ms" in row]
    assert {row["provider"] for row in rows} == {"fastadv", "eager", "torch.compile"}
    # 4 x 48 floats, read three times and written once, twice the cache
    assert {row["sets"] for row in rows} == {math.ceil(2 * 3000 / (4 * 4 * 4 * 48))}
    assert {row["peak_mib"] for row in rows} == {2.0}
    assert "share_of_copy" in next(row for row in rows if row["provider"] == "fastadv")


def tuned(session, name, milliseconds):
    own = [problem for problem in op_sizes.problems(session) if problem.op == name]
    return list(widths.tried(session, name, own, lambda: None, milliseconds))


def test_the_fastest_width_wins(session):
    from fastadv.ops.triton import _tuned

    def milliseconds(sets):
        width = _tuned._tried.get("l2_step_kernel", _tuned.Width(1024, 8))
        return {256: 0.5, 1024: 1.0}.get(width.BLOCK, 0.9)

    *tried, winner = tuned(session, "l2_step", milliseconds)
    assert {row["provider"]: row["times_default"] for row in tried} == {
        f"{block}/{warps}": {256: 2.0, 1024: 1.0}.get(block, 1.111) for block, warps in widths.WIDTHS
    }
    wins = {"width": {"BLOCK": 256, "num_warps": 2}, "kernel": "l2_step_kernel", "times_default": 2.0}
    assert winner == {"provider": "winner", **wins}
    assert tuned(session, "l2_step", lambda sets: 1.0)[-1]["width"] is None


def test_a_width_with_another_result_cannot_win(session, monkeypatch):
    from fastadv.ops.triton import _tuned

    monkeypatch.setattr(widths, "result", lambda name, problem: torch.full((2,), float(len(_tuned._tried))))
    *tried, winner = tuned(session, "linf_step", lambda sets: 0.1 if _tuned._tried else 1.0)
    assert all("differ" in row["error"] for row in tried)
    assert winner["width"] is None


def test_every_tunable_kernel_has_that_name_and_a_case(session):
    named = {case.name for case in cases_of("ops", session)}
    for name in widths.TUNABLE:
        module = importlib.import_module(f"fastadv.ops.triton.{name.rstrip('_')}")
        assert hasattr(module, f"{name.rstrip('_')}_kernel")
        assert f"tune {name}" in named


def test_a_replay_that_writes_nothing_is_noticed(session):
    args = next(a for a in CARDS["linf_step"].samples(CPU, torch.float32) if a[0].shape == (3, 7))
    launch = triton_launcher(CARDS["linf_step"])
    assert launch is not None
    with pytest.raises(AssertionError, match="a replayed graph differs"):
        correctness.replayed(CARDS["linf_step"], launch, args)


@pytest.mark.slow
def test_rows_tell_times_of_events_and_memory(session):
    rows = ran(session, "attacks", "PGD MLP")
    assert not [row for row in rows if row.get("status") == "failed" or "error" in row]
    found = [row for row in rows if "p50_ms" in row]
    assert all(row["p50_ms"] > 0 for row in found)
    assert {row["peak_mib"] for row in found} == {2.0}
    assert [note for note in session.notes if "fastadv fp32, graph" in note]


def test_what_cannot_be_captured_is_called(session, monkeypatch):
    @contextmanager
    def refused(graph):
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
