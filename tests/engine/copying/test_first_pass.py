"""A copy runs its own modules, in eval mode, whatever forward is made of; where it cannot, it is refused."""

import functools
from collections.abc import Callable
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import Plain, freeze
from fastadv.engine.copying.reach import reachable
from tests.engine.copying.net import Net, X

pytestmark = pytest.mark.usefixtures("search_copy")


def by_parent(net: Net) -> None:
    net.last.parents = [net]
    net.last.forward = MethodType(
        lambda self, x: self.parents[0].norm(nn.functional.pad(x @ self.weight.T, (0, 4))), net.last
    )


def by_unregistered(net: Net) -> None:
    net.others = [Net(seed=6).eval()]
    net.forward = MethodType(lambda self, x: self.others[0](x) + self.last.bias, net)


class Holder:
    """Holds a module in an object that is none."""

    def __init__(self) -> None:
        self.part = Net(seed=6).eval()


def by_object(net: Net) -> None:
    net.holder = Holder()
    net.forward = MethodType(lambda self, x: self.holder.part(x) + self.last.bias, net)


# forwards that reach every part through the module itself
WAYS: dict[str, Callable[[Net], object]] = {
    "compile": lambda net: setattr(net, "forward", torch.compile(net.forward, backend="eager")),
    "partial": lambda net: setattr(net, "forward", functools.partial(net.forward, sign=-1)),
    "parent": by_parent,
    "unregistered": by_unregistered, "object": by_object,
}  # fmt: skip


def state(net: nn.Module) -> list[Tensor]:
    return [
        value.clone()
        for part in reachable(net)
        if isinstance(part, nn.Module)
        for value in part.state_dict().values()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_copy_is_the_model_in_eval_mode_and_leaves_it_alone(way):
    net = Net()
    WAYS[way](net)
    expected = net.eval()(X).detach()
    net.train()
    before = state(net)
    frozen, plain = freeze(net), Plain(net)
    torch.testing.assert_close(frozen.verdict(X), expected)
    torch.testing.assert_close(frozen(X), expected)
    assert frozen.input_gradient(X, torch.arange(6) % 3)[2].abs().sum() > 0
    assert all(map(torch.equal, state(net), before))
    assert all(part.training for part in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    plain.verdict(X)
    with torch.no_grad():  # and follows training
        for part in reachable(net):
            if isinstance(part, Net):
                part.first.weight.mul_(-1)
                part.last.bias.add_(1)
                part.norm.running_mean.sub_(0.5)
    torch.testing.assert_close(plain.verdict(X), net.eval()(X).detach())


@pytest.mark.parametrize(
    "call",
    [
        lambda net: functools.partial(net, sign=-1),
        lambda net: net.negated,
        lambda net: functools.partial(functools.partial(net.forward), sign=-1),
    ],
)
def test_bound_methods_and_partials_are_modules(call: Callable[[Net], Callable[[Tensor], Tensor]]) -> None:
    net = Net()
    expected = -net.eval()(X).detach()
    net.train()
    before = state(net)
    frozen = freeze(call(net))
    torch.testing.assert_close(frozen.verdict(X), expected)
    torch.testing.assert_close(frozen(X), expected)
    assert all(map(torch.equal, state(net), before))
    assert net.training


def doubled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    @functools.wraps(forward)
    def call(x: Tensor) -> Tensor:
        return 2 * forward(x)

    return call


def by_method(net: Net) -> None:
    """As libraries for mixed precision do: a function that holds the old forward, bound to the model."""
    old = net.forward
    net.forward = MethodType(lambda self, x: old(x) + self.last.bias, net)


# forwards that reach parts of the model in another way: by what a copy has for itself
CLOSURES: dict[str, Callable[[Net], object]] = {
    "closure": lambda net: setattr(net, "forward", lambda x: 2 * net.last(net.drop(net.norm(net.first(x))))),
    "default": lambda net: setattr(net, "forward", lambda x, norm=net.norm: norm(net.first(x))[:, :3]),
    "wrapper": lambda net: setattr(net, "forward", doubled(doubled(net.forward))),
    "method": by_method,
    "hook": lambda net: net.last.register_forward_hook(
        lambda part, args, out: out + net.norm(net.first(X[: len(out)]))[:, :3]
    ),
}


@pytest.mark.parametrize("prepared", [Plain, freeze])
@pytest.mark.parametrize("way", CLOSURES)
def test_closures_in_training_mode_are_copied_with_the_model(way, prepared):
    net = Net()
    CLOSURES[way](net)
    expected = net.eval()(X).detach()
    net.train()
    before, model = state(net), prepared(net)
    for logits in (model.verdict(X), model(X), model.input_gradient(X, torch.arange(6) % 3)[1]):
        torch.testing.assert_close(logits, expected)
    assert all(map(torch.equal, state(net), before))
    assert net.training
