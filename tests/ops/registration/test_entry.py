"""Calls from Python go past the dispatcher only where it would do nothing but call the CPU kernel."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fastadv import ops
from fastadv._torch import compares_keys
from fastadv.ops.keep_best import keep_best_
from fastadv.ops.registration import entry as entry_module
from fastadv.ops.registration.entry import entry
from fastadv.ops.registration.library import extension

pytestmark = [
    pytest.mark.skipif(not compares_keys, reason="torch compares the keys of tensors since 2.5"),
    pytest.mark.skipif(extension is None, reason="no extension built"),
]


def arguments(rows=2, cols=3):
    draw = torch.Generator().manual_seed(rows + cols)
    x, grad = torch.rand(rows, cols, generator=draw), torch.randn(rows, cols, generator=draw)
    return x.clone(), grad, x, 0.3, 0.1


@pytest.fixture
def ways():
    """An entry that says which way it went, and the list of what it said."""
    said = []
    return entry(
        lambda *args: said.append("dispatcher"), lambda *args: said.append("kernel"), extension.usual
    ), said


class Tagged(torch.Tensor):
    """A subclass that computes as its base does."""


PLAIN = {
    "tensors": lambda: (torch.rand(2, 3), torch.rand(2, 3).bfloat16(), 0.5, 3, "ce", None, True, [1, 2]),
    "views": lambda: (torch.rand(3, 4).t()[1:], torch.rand(2)[None].expand(3, 2)),
    "parameter without gradient": lambda: (nn.Parameter(torch.rand(2), requires_grad=False),),
    "lists of tensors": lambda: ([torch.rand(2), torch.rand(3)],),
}
OTHERS = {
    "requires a gradient": lambda: (torch.rand(2, 3), torch.rand(2, 3).requires_grad_()),
    "parameter": lambda: (nn.Parameter(torch.rand(2)),),
    "one in a list": lambda: ([torch.rand(2), torch.rand(3).requires_grad_()],),
    "meta": lambda: (torch.rand(2, 3, device="meta"),),
    "sparse": lambda: (torch.rand(2, 3).to_sparse(),),
    "negative view": lambda: (torch._neg_view(torch.rand(2, 3)),),
    "subclass": lambda: (torch.rand(2, 3).as_subclass(Tagged),),
    "a list in a list": lambda: ([[torch.rand(2)]],),
    "another type": lambda: ((torch.rand(2),),),
}


@pytest.mark.parametrize("kind", PLAIN | OTHERS)
def test_which_arguments_go_past_the_dispatcher(kind, ways):
    call, said = ways
    call(*(PLAIN | OTHERS)[kind]())
    assert said == ["kernel" if kind in PLAIN else "dispatcher"]


SEEN = []


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        SEEN.append(str(func))
        return func(*args, **(kwargs or {}))


class Listening(TorchFunctionMode):
    __torch_function__ = Watching.__torch_dispatch__


@pytest.mark.parametrize("mode", [Watching, Listening])
@pytest.mark.parametrize("call", [ops.linf_step, ops.linf_step_])
def test_a_mode_sees_the_op(call, mode):
    some = arguments()
    SEEN.clear()
    with mode():
        call(*some)
    assert f"fastadv.{call.__name__}.default" in SEEN


@pytest.mark.slow
def test_a_compiled_graph_holds_the_op():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    first, *rest = arguments()
    found = torch.compile(lambda x: ops.linf_step_(x, *rest), backend=backend, fullgraph=True)(first.clone())
    assert torch.equal(found, ops.linf_step(first, *rest))
    assert "fastadv.linf_step_.default" in [str(node.target) for node in graphs[0].graph.nodes]


@pytest.mark.parametrize("through", [False, True], ids=["past", "through"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autograd_notices_what_an_op_writes(through, dtype, monkeypatch):
    if through:
        monkeypatch.setattr(entry_module, "_watched", lambda: True)
    x_adv, grad, x, *rest = (
        value.to(dtype) if isinstance(value, torch.Tensor) else value for value in arguments()
    )
    column = torch.zeros(2, dtype=dtype)
    won = torch.ones(2, dtype=torch.bool)
    writes = [
        lambda saved: ops.linf_step_(saved, grad, x, *rest),
        lambda saved: keep_best_(saved, column - 1, ~won, grad, column, won),
    ]
    for write in writes:
        weight, saved = torch.ones(2, 3, dtype=dtype, requires_grad=True), x_adv.clone()
        product = (weight * saved).sum()
        write(saved)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


def test_the_way_past_can_be_closed(monkeypatch):
    monkeypatch.setenv("FASTADV_DIRECT", "0")
    assert entry(lambda x: "dispatcher", lambda x: "kernel", extension.usual)(torch.rand(2)) == "dispatcher"


def test_a_profile_holds_the_op():
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        ops.linf_step(*arguments())
    assert any(event.key == "fastadv::linf_step" for event in profiled.key_averages())
