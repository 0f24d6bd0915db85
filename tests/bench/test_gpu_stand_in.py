"""The launch widths that `make gpu` tunes, with a stand-in for torch.cuda on the CPU."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from bench.session import Session
from bench.stage import cases_of
from bench.subjects import op_sizes, widths
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


@pytest.fixture
def session(monkeypatch):
    from tests.triton_interpreter import patched

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=3000)
    )
    with patched():
        yield made(StandIn)


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
