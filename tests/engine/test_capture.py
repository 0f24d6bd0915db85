"""Graphs of steps: what has one of its own, how many are kept, and which models are tried."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, capture
from fastadv.engine.capture import LEAST, Captures, Graph, Graphs
from fastadv.ops import _graphs
from tests import recorded

X, Y = torch.rand(9, 2, 4, 4), torch.arange(9) % 3


def of(graphs: Graphs, kind: str = "kind", alike: Callable[[], bool] = lambda: True) -> Captures:
    return Captures(graphs, kind, None, alike)


def taken(graphs: Graphs, x: Tensor = X, key: object = "key", name: str = "x", kind: str = "kind") -> Graph:
    """Take a graph, and give it back."""
    graph: Any = of(graphs, kind).take(key, {name: x}, LEAST)
    of(graphs, kind).give_back(graph)
    return graph


def test_what_has_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, last = Graphs(), X.contiguous(memory_format=torch.channels_last)
    calls: list[dict[str, Any]] = [{}, {"x": X[:8]}, {"x": X[:, :1]}, {"x": X.double()}, {"x": last}]
    calls += [{"key": "other"}, {"name": "z"}, {"kind": "other"}]
    first = [taken(graphs, **call) for call in calls]
    assert [taken(graphs, **call) for call in calls] == first
    assert len(set(first)) == len(calls)
    assert taken(graphs, torch.rand(10, 2, 4, 4)) is first[0]
    for graph, x in ((taken(graphs), X), (taken(graphs, last), last)):  # spare rows are real ones
        assert torch.equal(graph.rows["x"], torch.cat([x, x[:1]])) == (x is last)
        assert graph.rows["x"].stride() == x.stride()
    assert of(graphs).take("short", {"x": X}, LEAST - 1) is None
    monkeypatch.setattr(capture, "stream_of", lambda device: "another")
    assert taken(graphs) not in first
    for number in range(capture.KINDS):
        taken(graphs, kind=str(number))
    assert len(graphs.alike) < capture.KINDS  # the graphs of others are gone


def test_where_memory_ran_out_graphs_go() -> None:
    def full(x: Tensor) -> Tensor:
        if len(x) > 4:
            raise MemoryError
        return x.flatten(1)[:, :3]

    taken(graphs := capture.graphs_of(owner := nn.Flatten()))
    Plain(full).input_gradient(X, Y)
    assert not len(capture.graphs_of(owner)) + len(graphs)


def test_what_a_graph_touches_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made within the graph, or is its rows or a tensor of the model."""
    recordings, recording = list[recorded.Recording](), recorded.Recording
    monkeypatch.setattr(recorded, "Recording", lambda: recordings.append(recording()) or recordings[-1])
    recorded.as_on_a_gpu(monkeypatch)
    model, more = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), {"steps": 12, "step_size": 0.01}
    for name, extra in (
        ("last_iterate", {}),
        ("pgd", {"stop_early": False}),
        ("mim", {"stop_early": False}),
    ):
        getattr(fa.attacks, name)(model, X, Y, fa.Linf(0.1), **more, **extra)
        graph = [*capture.graphs_of(model)._entries.values()][-1][0]
        known = {t.untyped_storage().data_ptr() for t in (*graph.rows.values(), *model.parameters())}
        assert recordings.pop().before.keys() <= known


@pytest.mark.parametrize("asked", [None, True])
def test_a_frozen_model_says_why_where_it_was_asked(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(_graphs, "capture", lambda run: 1 / 0)
    frozen = fa.freeze(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))
    frozen.options = replace(frozen.options, cuda_graph=asked)
    for _ in range(2):
        fa.attacks.pgd(frozen, X, Y, fa.Linf(0.03), steps=12, stop_early=False)
    assert frozen.notes.count("not captured as CUDA graphs: division by zero") == (asked is True)
