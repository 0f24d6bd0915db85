"""Where the compiler or a capture fails, the search goes on without, says so once, and finds the same."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine.graph import Graphs
from fastadv.errors import InputError
from fastadv.ops import _graphs
from tests.engine.nets import convnet, images


class Failing(nn.Module):
    """Stands for a compiled module whose compiler fails, in the forward or in the backward pass."""

    def __init__(self, original: nn.Module, backward: bool) -> None:
        super().__init__()
        self._orig_mod, self.backward = original, backward

    def forward(self, x: Tensor) -> Tensor:
        if not self.backward:
            raise RuntimeError("BackendCompilerFailed: no\nmany lines more")
        logits = self._orig_mod(x)
        if logits.requires_grad:
            logits.register_hook(self.fail)
        return logits

    def fail(self, gradient: Tensor) -> None:
        raise RuntimeError("BackendCompilerFailed: no\nmany lines more")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("backward", [True, False])
def test_a_compiler_that_fails(precision, fold, backward, monkeypatch, logged) -> None:
    model, (x, y) = convnet().eval(), images()
    plain = fa.freeze(model, precision, fold=fold)
    monkeypatch.setattr(torch, "compile", lambda search: Failing(search, backward))
    frozen = fa.freeze(model, precision, fold=fold, compile=True)
    for _ in range(2):
        for ours, theirs in zip(frozen.input_gradient(x, y), plain.input_gradient(x, y), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(frozen(x), plain(x))
    why = "not compiled: the compiled search twin failed (BackendCompilerFailed: no)"
    assert logged.text.count(why) == 1
    assert logged.text.count("freeze: compiling") == 1
    assert "many lines" not in logged.text
    assert set(frozen.notes) <= {*plain.notes, why}
    assert frozen.search.form.channels_last == plain.search.form.channels_last


class Full(nn.Module):
    """Stands for a compiled module for whose passes memory runs out with more than three samples."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._orig_mod = original

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._orig_mod(x)


def test_memory_that_runs_out_is_no_failure_of_the_compiler(monkeypatch) -> None:
    model, (x, y) = convnet().eval(), images()
    plain = fa.freeze(model)
    monkeypatch.setattr(torch, "compile", Full)
    frozen = fa.freeze(model, compile=True)
    assert frozen.settle(x[:3])
    for ours, theirs in zip(frozen.input_gradient(x, y), plain.input_gradient(x, y), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert "compiled" in frozen.notes
    assert isinstance(frozen.search.form.model, Full)


def test_an_argument_that_is_wrong_is_no_failure_of_the_compiler(monkeypatch) -> None:
    model, (x, y) = convnet().eval(), images()
    monkeypatch.setattr(torch, "compile", lambda search: Failing(search, backward=True))
    frozen = fa.freeze(model, compile=True)
    with pytest.raises(InputError):
        frozen.input_gradient(x, y + 7)
    assert "compiled" in frozen.notes


def test_a_capture_that_fails(monkeypatch, logged) -> None:
    tried = []

    def capture(run):
        tried.append(run)
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be")

    monkeypatch.setattr(_graphs, "capture", capture)
    model, (x, y) = convnet().eval(), images()
    plain, frozen = fa.freeze(model), fa.freeze(model)
    frozen.add_note("captured as CUDA graphs")
    frozen.search.graphs = Graphs()
    for _ in range(4):
        for ours, theirs in zip(frozen.input_gradient(x, y), plain.input_gradient(x, y), strict=True):
            torch.testing.assert_close(ours, theirs)
    why = "not captured as CUDA graphs: operation not permitted when stream is capturing"
    assert logged.text.count(why) == 1
    assert frozen.notes == (*plain.notes, why)
    assert len(tried) == 1
