"""Where the search copy fails the model as given searches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError
from tests.engine.nets import convnet, images
from tests.engine.rewritten import answers
from tests.logged import Logged

pytestmark = pytest.mark.usefixtures("search_copy")


class InNumpy(torch.autograd.Function):
    """ReLU6 of sorts, whose backward pass goes through NumPy, which knows no bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.from_numpy(gradient.contiguous().numpy()).to(gradient)


class Net(nn.Module):
    """A convolution, and what is between that and the logits; in batches of sizes that it `takes` alone."""

    def __init__(self, between: Any, takes: Callable[[int], bool] = lambda count: True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32, 5)
        self.between, self.takes = between, takes

    def forward(self, x: Tensor) -> Tensor:
        if not self.takes(len(x)):
            raise ValueError(f"static batch, got {len(x)}")
        return self.fc(self.between(self.conv(x)).mean((2, 3)))


def test_a_backward_that_refuses_bfloat16(logged: Logged) -> None:
    net, x, y = Net(InNumpy.apply).eval(), torch.rand(4, 3, 7, 7), torch.arange(4)
    frozen = fa.freeze(net, "bf16")
    for _ in range(2):
        gradient = frozen.input_gradient(x, y)[2]
        torch.testing.assert_close(gradient, answers(net, x, y)[1], rtol=1e-4, atol=1e-6)
    assert [note for note in frozen.notes if note.startswith("fell back to the model as given")]
    assert len(logged.records) == 1
    assert fa.attacks.pgd(frozen, x, y, fa.Linf(0.1), steps=2).x_adv.shape == x.shape


def test_a_layout_that_the_model_refuses(logged: Logged) -> None:
    class Dense(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self:
                x = layer(x)
                if x.ndim == 4 and not x.is_contiguous():
                    raise RuntimeError("dense activations alone\nmany lines more")
            return x

    model, (x, y) = Dense(*convnet().eval()), images()
    frozen, plain = fa.freeze(model), fa.engine.Plain(model)
    for _ in range(3):
        assert torch.equal(frozen.input_gradient(x, y)[2], plain.input_gradient(x, y)[2])
    assert frozen.asked == (18, 18)
    why = "fell back to the model as given: the search copy failed (dense activations alone)"
    assert [note for note in frozen.notes if "fell" in note] == [why]
    assert len(logged.records) == 1


def test_an_error_of_the_model_itself_stays_that(logged: Logged) -> None:
    class Failing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                raise RuntimeError("no gradient today")
            return super().forward(x)

    frozen = fa.freeze(Failing(*convnet()).eval(), "bf16")
    x, y = images()
    with pytest.raises(RuntimeError, match="no gradient today"):
        frozen.input_gradient(x, y)
    assert frozen.search_dtype == torch.bfloat16
    assert not logged.records


# as an exported model has it
STATIC: dict[str, Callable[[int], bool]] = {
    "one size": lambda count: count == 64,
    "multiples of four": lambda count: count % 4 == 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("takes", STATIC)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_models_of_one_batch_size(takes, precision, logged):
    net = Net(torch.relu, STATIC[takes]).eval()
    x, frozen = torch.rand(64, 3, 16, 16), fa.freeze(net, precision)
    y = frozen.verdict(x).argmax(1)
    tolerance = {"rtol": 1e-3, "atol": 1e-6} if precision == "fp32" else {"rtol": 1, "atol": 1e-3}
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], answers(net, x, y)[1], **tolerance)
    frozen(x)
    for attack in (fa.attacks.pgd, fa.attacks.apgd):
        attack(frozen, x, y, fa.Linf(1e-4), steps=3)
    # few rows cannot be compared
    assert "fell back to the model as given: the search copy failed (static batch" in frozen.notes[-1]
    assert len(logged.records) == 1


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
@pytest.mark.parametrize("backward", [True, False])
def test_a_compiler_that_fails(precision, backward, monkeypatch, logged) -> None:
    model, (x, y) = convnet().eval(), images()
    plain = fa.engine.Plain(model)
    monkeypatch.setattr(torch, "compile", lambda search: Failing(search, backward))
    frozen = fa.freeze(model, precision, compile=True)
    for _ in range(2):
        assert torch.equal(frozen.input_gradient(x, y)[2], plain.input_gradient(x, y)[2])
        assert torch.equal(frozen(x), plain(x))
    why = "fell back to the model as given: the search copy failed (BackendCompilerFailed: no)"
    assert logged.text.count(why) == 1
    assert logged.text.count("freeze: compiling") == 1
    assert "many lines" not in logged.text


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
    torch.testing.assert_close(frozen.input_gradient(x, y), plain.input_gradient(x, y))
    assert "compiled" in frozen.notes
    assert isinstance(frozen.search.model, Full)
    assert not frozen.exact


def test_an_argument_that_is_wrong_is_no_failure_of_the_compiler(monkeypatch) -> None:
    model, (x, y) = convnet().eval(), images()
    monkeypatch.setattr(torch, "compile", lambda search: Failing(search, backward=True))
    frozen = fa.freeze(model, compile=True)
    with pytest.raises(InputError):
        frozen.input_gradient(x, y + 7)
    assert "compiled" in frozen.notes
