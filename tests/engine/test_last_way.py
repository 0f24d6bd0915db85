"""Where the search copy fails the model as given searches."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError
from tests.engine.nets import around, convnet, dense, images, passed
from tests.logged import Logged

pytestmark = pytest.mark.usefixtures("search_copy")
X, Y = images(64)
FELL = "fell back to the model as given: the search copy failed"


class InNumpy(torch.autograd.Function):
    """ReLU whose backward pass goes through NumPy, which knows no bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.from_numpy(gradient.contiguous().numpy()).to(gradient)


def compiler(run: Callable[[Any, Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    def compiled(search: nn.Module) -> nn.Module:
        wrapped: Any = around(run, lambda: search)()
        wrapped._orig_mod = search
        return wrapped

    return compiled


def static(net: Any, x: Tensor) -> Tensor:
    """As an exported model has it."""
    if len(x) != 64:
        raise ValueError(f"static batch, got {len(x)}")
    return net(x)  # type: ignore[no-any-return]


def forward_fails(net: Any, x: Tensor) -> Tensor:
    raise RuntimeError("BackendCompilerFailed: no\nmany lines more")


def backward_fails(net: Any, x: Tensor) -> Tensor:
    logits: Tensor = net(x)
    if logits.requires_grad:
        logits.register_hook(lambda gradient: forward_fails(net, gradient))
    return logits


# functions of the model and of a compiled copy, and why one fails
FAILS: dict[str, tuple[Any, Any, str]] = {
    "a backward that refuses bfloat16": (lambda net, x: InNumpy.apply(net(x)), None, "Got unsupported"),
    "one batch size": (static, None, "static batch, got"),
    "a compiler, forwards": (None, forward_fails, "BackendCompilerFailed: no"),
    "a compiler, backwards": (None, backward_fails, "BackendCompilerFailed: no"),
}
FORMS = dict(zip(FAILS, cycle(["bf16", "fp32"]), strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILS)
def test_a_copy_that_fails_is_replaced_by_the_model_as_given(name, monkeypatch, logged):
    precision = FORMS[name]
    run, compiled, why = FAILS[name]
    net = nn.Sequential(nn.Conv2d(2, 32, 3), nn.ELU(), nn.Flatten(), nn.Linear(1152, 5))
    model = around(run or passed, lambda: net)().eval()
    monkeypatch.setattr(torch, "compile", compiler(compiled))
    frozen, plain = fa.freeze(model, precision, compile=compiled is not None), fa.engine.Plain(model)
    for _ in range(2):
        assert torch.equal(frozen.input_gradient(X, Y)[2], plain.input_gradient(X, Y)[2])
        assert torch.equal(frozen(X), plain(X))
    notes = [note for note in frozen.notes if note.startswith(FELL)]
    assert len(notes) == 1
    assert why in notes[0]
    assert logged.text.count(FELL) == 1
    assert "many lines" not in logged.text
    assert fa.attacks.pgd(frozen, X, plain.verdict(X).argmax(1), fa.Linf(1e-5), steps=2).correct.all()


def test_an_error_of_the_model_itself_stays_that(logged: Logged) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise RuntimeError("no gradient today")
        return net(x)  # type: ignore[no-any-return]

    frozen = fa.freeze(around(run, convnet)().eval(), "bf16")
    with pytest.raises(RuntimeError, match="no gradient today"):
        frozen.input_gradient(X, Y)
    assert frozen.search_dtype == torch.bfloat16
    assert not logged.records


def test_a_copy_that_fails_where_others_passed_is_left() -> None:
    def run(net: Any, x: Tensor) -> Tensor:  # values that the first images do not have
        return dense(net, x) if float(x.detach().max()) > 1 else net(x)  # type: ignore[no-any-return]

    model = around(run, convnet)().eval()
    frozen, plain = fa.freeze(model), fa.engine.Plain(model)
    ways: list[Callable[[Any, Tensor], Tensor]] = [
        lambda ask, x: ask.input_gradient(x, Y)[2], lambda ask, x: ask(x),
    ]  # fmt: skip
    for x in (X, X + 1):
        for way in ways:
            torch.testing.assert_close(way(frozen, x), way(plain, x), rtol=1e-4, atol=1e-6)
    assert FELL in frozen.notes[-1]
    y = plain.verdict(X).argmax(1)
    box = (0.0, 2.0)
    out = fa.attacks.pgd(fa.freeze(model), X, y, fa.Linf(0.5, box=box), steps=5, stop_early=False)
    assert torch.equal(plain.verdict(out.x_adv).argmax(1) != y, out.success)


@pytest.mark.slow
def test_what_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out, and an argument that is wrong."""

    def full(net: Any, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return net(x)  # type: ignore[no-any-return]

    model = convnet().eval()
    plain = fa.freeze(model)
    monkeypatch.setattr(torch, "compile", compiler(full))
    frozen = fa.freeze(model, compile=True)
    frozen.layout(X[:3])
    torch.testing.assert_close(frozen.input_gradient(X, Y), plain.input_gradient(X, Y))
    monkeypatch.setattr(torch, "compile", compiler(backward_fails))
    wrong = fa.freeze(model, compile=True)
    with pytest.raises(InputError):
        wrong.input_gradient(X, Y + 7)
    for model_of in (frozen, wrong):
        assert "compiled" in model_of.notes
        assert not model_of.exact
