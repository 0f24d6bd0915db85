"""Graphs of steps: what they touch, when they go, and which models are tried."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, capture
from fastadv.ops import _graphs
from tests import recorded

X, Y = torch.rand(9, 2, 4, 4), torch.arange(9) % 3


def test_where_memory_ran_out_graphs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(x: Tensor) -> Tensor:
        if len(x) > 4:
            raise MemoryError
        return x.flatten(1)[:, :3]

    recorded.as_on_a_gpu(monkeypatch)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    fa.attacks.pgd(model, X, Y, fa.Linf(0.1), steps=12, step_size=0.01, stop_early=False)
    graphs = capture.graphs_of(model)
    assert len(graphs)
    Plain(full).input_gradient(X, Y)
    assert not len(graphs) + len(capture.graphs_of(model))


def test_what_a_graph_touches_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made within the graph, or is its rows or a tensor of the model."""
    recordings, recording = list[recorded.Recording](), recorded.Recording
    monkeypatch.setattr(recorded, "Recording", lambda: recordings.append(recording()) or recordings[-1])
    recorded.as_on_a_gpu(monkeypatch)
    torch.manual_seed(0)  # a net that is right about some sample, or nothing is recorded
    model, more = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), {"steps": 12, "step_size": 0.01}
    for name, extra in (("last_iterate", {}), ("pgd", {"stop_early": False}), ("mim", {"stop_early": False})):
        getattr(fa.attacks, name)(model, X, Y, fa.Linf(0.1), **more, **extra)
        graph = [*capture.graphs_of(model)._entries.values()][-1][0]
        known = {t.untyped_storage().data_ptr() for t in (*graph.rows.values(), *model.parameters())}
        assert recordings.pop().before.keys() <= known


def test_steps_that_meet_nan_are_taken_again_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As each goes on by the last answer that was finite, which no graph remembers."""

    class Gaps(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            gap = (x[:, 0, :1, 0] - 0.62).abs() < 0.02
            return super().forward(x.flatten(1)) + torch.where(gap, torch.nan, 0.0)

    torch.manual_seed(0)
    model, x = Gaps(32, 3), X.index_fill(3, torch.tensor([0]), 0.55)
    y, options = model(x).argmax(1), {"steps": 12, "step_size": 0.03, "stop_early": False}
    plain = fa.attacks.bim(model, x, y, fa.Linf(0.2), **options)
    captured = recorded.as_on_a_gpu(monkeypatch)
    out = fa.attacks.bim(model, x, y, fa.Linf(0.2), **options)
    assert captured
    assert torch.equal(out.x_adv, plain.x_adv)
    assert torch.equal(out.status, plain.status)


def test_rows_of_a_graph_keep_their_layout_and_spare_ones_repeat_samples() -> None:
    last = X.contiguous(memory_format=torch.channels_last)
    rows = capture.Graph(None, {"last": last, "first": X}, None).rows
    assert rows["last"].is_contiguous(memory_format=torch.channels_last)
    assert rows["first"].is_contiguous()
    for padded in rows.values():
        assert torch.equal(padded, X[torch.arange(len(padded)) % len(X)])


@pytest.mark.slow
def test_a_step_is_captured_once_in_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the checkpoints of apgd, where its rows come back from a graph."""
    captured = recorded.as_on_a_gpu(monkeypatch)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    fa.attacks.apgd(model, X, model(X).argmax(1), fa.Linf(0.1), steps=60, stop_early=False)
    assert len(captured) == 1


@pytest.mark.parametrize("asked", [None, True])
def test_a_frozen_model_says_why_where_it_was_asked(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(_graphs, "capture", lambda run: 1 / 0)
    frozen = fa.freeze(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))
    frozen.options = replace(frozen.options, cuda_graph=asked)
    for _ in range(2):
        fa.attacks.pgd(frozen, X, Y, fa.Linf(0.03), steps=12, stop_early=False)
    assert frozen.notes.count("not captured as CUDA graphs: division by zero") == (asked is True)
