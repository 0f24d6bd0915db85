"""A model in eval mode is called as it is, unless a first pass of a copy writes something."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, freeze
from fastadv.errors import InputError
from tests.engine.copying.net import Net, X
from tests.zoo.state import State

pytestmark = pytest.mark.usefixtures("search_copy")


def test_a_model_in_eval_mode_is_called_as_it_is() -> None:
    net, seen = Net().eval(), list[nn.Module]()
    net.forward = lambda x: seen.append(net) or Net.forward(net, x)
    handle = net.last.register_forward_hook(lambda part, args, out: seen.append(part))
    plain = Plain(net)
    for _ in range(2):  # the first pass is watched
        seen.clear()
        plain.input_gradient(X, torch.zeros(6).long())
    assert plain.model is net
    assert seen == [net, net.last]
    handle.remove()
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert Plain(net.train()).model is not net


class Slots:
    __slots__ = ("count",)
    __repr__ = lambda self: str(getattr(self, "count", 0))  # noqa: E731


class Remembers(nn.Module):
    """Writes what `write` says, and has logits that tell whether it did."""

    count: Tensor

    def __init__(self, write: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.write = nn.Linear(5, 3), write
        self.held, self.named, self.part = [0], {"a": 0}, HELD.get(write)
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.write(self, x)
        out = self.net(x)
        return Doubled.apply(out, self.net.weight) if self.write is WRITES["nothing forward"] else 2 * out


class Doubled(torch.autograd.Function):
    """Fills the gradient of a weight in its backward pass, as layers do that compute theirs again."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        if ctx.weight.requires_grad and ctx.weight.shape[0] == 3:
            with torch.enable_grad():
                (ctx.weight.sum() * gradient.square().sum()).backward()
        return 2 * gradient, None


def inner_gradient(net: nn.Module, x: Tensor) -> None:
    with torch.enable_grad():
        net.net(x.detach().requires_grad_()).sum().backward()


WRITES: dict[str, Callable[[Any, Tensor], object]] = {
    "nothing forward": lambda net, x: None,
    "attribute": lambda net, x: setattr(net, "features", x),
    "other attribute": lambda net, x: setattr(net.norm, "eps", 0.5),
    "buffer": lambda net, x: net.count.add_(1),
    "buffer of another": lambda net, x: setattr(net, "count", net.count + 1),
    "list": lambda net, x: net.held.append(1),
    "dictionary": lambda net, x: net.named.update(a=1, b=2),
    "gradients": inner_gradient,
    "tensor hook": lambda net, x: x.requires_grad and x.register_hook(lambda g: setattr(net, "seen", g)),
    "data of a parameter": lambda net, x: setattr(net.norm.weight, "data", net.norm.weight.data * 1.0),
    "generator": lambda net, x: net.part.random(),
    "array": lambda net, x: np.add.at(net.part, 0, 1),
    "slots": lambda net, x: setattr(net.part, "count", 1),
    "iterator": lambda net, x: next(net.part),
}
# parts of models of which nothing is seen
HELD: dict[object, Any] = {
    WRITES["generator"]: np.random.default_rng(0), WRITES["array"]: np.zeros(2), WRITES["slots"]: Slots(),
    WRITES["iterator"]: itertools.count(),
}  # fmt: skip


def facts_of(model: Any) -> str:
    state = getattr(model.part, "bit_generator", None)
    return f"{model.held} {model.named} {state and state.state} {model.part} {[*vars(model)]}"


@pytest.mark.parametrize("kept", [False, True])  # a gradient of the caller's own
@pytest.mark.parametrize("name", WRITES)
def test_what_a_pass_writes_is_put_back(name: str, kept: bool) -> None:
    model = Remembers(WRITES[name]).eval()
    if kept:
        model.net(X).sum().backward()
    before = State.of(model)
    facts = facts_of(model)
    grads = [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]
    expected = 2 * model.net(X).detach()
    for _ in range(2):
        torch.testing.assert_close(Plain(model).verdict(X), expected)
        Plain(model).input_gradient(X, torch.zeros(6).long())
        assert fa.attacks.pgd(model, X, torch.zeros(6).long(), fa.Linf(0.1), steps=3).forwards
        before.check(model)
        assert facts == facts_of(model)
        for grad, weight in zip(grads, model.parameters(), strict=True):
            assert (grad is None and weight.grad is None) or torch.equal(grad, weight.grad)
    assert Plain(model).model is not model


def test_a_hook_is_watched_whenever_it_comes() -> None:
    model = nn.Sequential(nn.Linear(5, 3)).eval()
    for _ in range(2):
        fa.attacks.pgd(model, X, torch.zeros(6).long(), fa.Linf(0.1), steps=3)
        assert not hasattr(model[0], "kept")
        model[0].register_forward_hook(lambda part, args, out: setattr(part, "kept", out))


def test_a_first_pass_that_fails_leaves_nothing() -> None:
    def fail(net: Any, x: Tensor) -> None:
        net.features = x
        raise ValueError("after all")

    model = Remembers(fail).eval()
    with pytest.raises(ValueError, match="after all"):
        Plain(model).verdict(X)
    assert not hasattr(model, "features")


def test_a_model_in_eval_mode_need_not_be_copied() -> None:
    class Lone(nn.Linear):
        def __deepcopy__(self, memo: object) -> "Lone":
            raise NotImplementedError("one of a kind")

    net = Lone(5, 3).eval()
    torch.testing.assert_close(Plain(net).verdict(X), net(X).detach())
    with pytest.raises(InputError, match=r"one of a kind.*plain function"):
        Plain(net.train())


@pytest.mark.parametrize("prepared", [Plain, freeze])
def test_what_a_model_is_told_between_calls_is_looked_at(prepared: Any) -> None:
    """An attribute that lets it write, and a mode of a part that `eval` does not reach."""

    class Records(nn.Module):
        record, last = False, None

        def __init__(self) -> None:
            super().__init__()
            self.plain = [nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).eval()]

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.plain[0](x)
            if self.record:
                self.last = logits
            return logits

    model, x = Records().eval(), torch.rand(4, 6)
    statistics = model.plain[0][1].running_mean.clone()
    for _ in range(2):
        prepared(model).input_gradient(x, torch.arange(4) % 3)
    model.record = True
    for _ in range(2):
        prepared(model).input_gradient(x, torch.arange(4) % 3)
    assert model.last is None
    model.plain[0].train()
    with pytest.raises(InputError, match="training mode"):
        prepared(model).input_gradient(x, torch.arange(4) % 3)
    assert torch.equal(model.plain[0][1].running_mean, statistics)
