"""A copy runs its own modules, in eval mode, whatever forward is made of; where it cannot, it is refused."""

import functools
import gc
import sys
import weakref
from collections.abc import Callable
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import Plain, freeze
from fastadv.engine.copying.closures import reachable
from fastadv.engine.copying.inside import has_modes
from fastadv.engine.copying.strays import may_stray
from fastadv.errors import InputError
from fastadv.models.representation import representation

pytestmark = pytest.mark.usefixtures("search_copy")
X = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """BatchNorm with statistics unlike those of any batch, and dropout, so that training mode shows."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.drop = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.5)
        self.last, self.scale = nn.Linear(7, 3), 1.0
        self.norm.running_mean.uniform_(2, 5)
        self.norm.running_var.uniform_(0.01, 0.3)

    def forward(self, x: Tensor, sign: int = 1) -> Tensor:
        return sign * self.scale * self.last(self.drop(nn.functional.leaky_relu(self.norm(self.first(x)))))

    def negated(self, x: Tensor) -> Tensor:
        return -self(x)


def doubled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    @functools.wraps(forward)
    def call(x: Tensor) -> Tensor:
        return 2 * forward(x)

    return call


def by_method(net: Net) -> None:
    """As libraries for mixed precision do: a function that holds the old forward, bound to the model."""
    old = net.forward
    net.forward = MethodType(lambda self, x: old(x) + self.last.bias, net)


def by_parent(net: Net) -> None:
    net.last.parents = [net]
    net.last.forward = MethodType(
        lambda self, x: self.parents[0].norm(nn.functional.pad(x @ self.weight.T, (0, 4))), net.last
    )


def by_unregistered(net: Net) -> None:
    net.others = [Net(seed=6).eval()]
    net.forward = MethodType(lambda self, x: self.others[0](x) + self.last.bias, net)


def by_recursion(net: Net) -> None:
    def call(x: Tensor, depth: int = 2) -> Tensor:
        return call(x, depth - 1) if depth else net.last(net.norm(net.first(x)))

    net.forward = call


WAYS: dict[str, Callable[[Net], object]] = {
    "compile": lambda net: setattr(net, "forward", torch.compile(net.forward, backend="eager")),
    "closure": lambda net: setattr(net, "forward", lambda x: 2 * net.last(net.drop(net.norm(net.first(x))))),
    "default": lambda net: setattr(
        net, "forward", lambda x, first=net.first, *, parts=(net.norm, net.last): parts[1](parts[0](first(x)))
    ),
    "wrapper": lambda net: setattr(net, "forward", doubled(doubled(net.forward))),
    "method": by_method,
    "partial": lambda net: setattr(net, "forward", functools.partial(net.forward, sign=-1)),
    "hook": lambda net: net.last.register_forward_hook(
        lambda part, given, made: made + net.norm(net.first(X[: len(made)]))[:, :3]
    ),
    "parent": by_parent,
    "unregistered": by_unregistered,
    "recursion": by_recursion,
}


def state(net: nn.Module) -> list[Tensor]:
    return [
        value.clone()
        for part in reachable(net)
        if isinstance(part, nn.Module)
        for value in part.state_dict().values()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
def test_the_copy_is_the_model_in_eval_mode_and_leaves_it_alone(way, precision):
    net = Net()
    WAYS[way](net)
    expected = net.eval()(X).detach()
    net.train()
    before = state(net)
    frozen = freeze(net, precision)
    torch.testing.assert_close(frozen.verdict(X), expected.float())
    atol = 0.03 * float(expected.abs().max()) if precision == "bf16" else 1e-5
    torch.testing.assert_close(frozen(X), expected.float(), rtol=0, atol=atol)
    assert frozen.input_gradient(X, torch.arange(6) % 3)[2].abs().sum() > 0
    assert all(map(torch.equal, state(net), before))
    assert all(part.training for part in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_copy_follows_training(way: str) -> None:
    net = Net()
    WAYS[way](net)
    frozen = Plain(net)
    before = frozen.verdict(X)
    with torch.no_grad():
        for part in reachable(net):
            if isinstance(part, Net):
                part.first.weight.mul_(-1)
                part.last.weight.mul_(3)
                part.last.bias.add_(1)
                part.norm.running_mean.sub_(0.5)
    expected = net.eval()(X).detach().float()
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(frozen.verdict(X), expected)


def test_a_compiled_function_is_copied_as_it_was_written() -> None:
    net = Net().eval()
    expected = net(X).detach()
    net.forward = torch.compile(net.forward, backend=lambda *given: pytest.fail("compiled"))
    torch.testing.assert_close(Plain(net).verdict(X), expected)


def test_what_holds_no_module_stays_shared() -> None:
    net, calls, count = Net(), [], 0
    net.last.register_forward_hook(lambda part, given, made: calls.append(len(made)))

    def call(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return net.last(net.norm(net.first(x)))

    net.forward = call
    Plain(net).verdict(X)
    assert (calls, count) == ([6], 1)


@pytest.mark.slow
def test_a_copy_may_be_copied_and_keeps_nothing_alive() -> None:
    gone = []
    for way in WAYS:
        net = Net()
        WAYS[way](net)
        gone.append(weakref.ref(net))
        first = freeze(net)
        torch.testing.assert_close(freeze(first.model).verdict(X), first.verdict(X))
    del net, first
    gc.collect()
    assert [way for way, model in zip(WAYS, gone, strict=True) if model() is not None] == []


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


NET = Net()


def by_global(net: Net) -> None:
    net.forward = lambda x: NET.last(NET.norm(NET.first(x)))


def by_global_forward(net: Net) -> None:
    """No part is called as a module, and none of them has a tensor."""
    net.drop.forward = lambda x: NET.drop.__class__.forward(NET.drop, x)


def by_weak_reference(net: Net) -> None:
    net.last.parent = weakref.ref(net)
    net.last.forward = MethodType(lambda self, x: self.parent().norm(x)[:, :3], net.last)


def by_swallowed(net: Net) -> None:
    def call(x: Tensor) -> Tensor:
        try:
            return NET.last(NET.norm(NET.first(x)))
        except Exception:
            return x

    net.forward = call


@pytest.mark.parametrize("prepared", [Plain, freeze])
@pytest.mark.parametrize("way", [by_global, by_global_forward, by_weak_reference, by_swallowed])
def test_strays_are_refused_before_they_run(way, prepared, monkeypatch):
    net = Net()
    monkeypatch.setitem(globals(), "NET", net)
    way(net)
    before = state(net)
    for call in (
        lambda frozen: frozen.verdict(X),
        lambda frozen: frozen(X),
        lambda frozen: frozen.input_gradient(X, torch.arange(6) % 3),
    ):
        frozen = prepared(net)
        for _ in range(2):
            with pytest.raises(InputError, match="of the original"):
                call(frozen)
    assert sys.getprofile() is None
    assert all(map(torch.equal, state(net), before))
    assert net.training


def test_strays_of_other_ways_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the dtype is learned, and in a copy of a copy; to read a weight of the original is allowed."""
    net = Net()
    monkeypatch.setitem(globals(), "NET", net)
    net.forward = lambda x: (x @ NET.first.weight.T)[:, :3]
    torch.testing.assert_close(freeze(net).verdict(X), (X @ net.first.weight.T)[:, :3].detach())
    by_global(net)
    with pytest.raises(InputError, match="of the original"):
        freeze(representation(net, "last")).verdict(X)
    net.double().forward = lambda x: NET.last(NET.norm(NET.first(x.double())))
    before = state(net)
    with pytest.raises(InputError, match="of the original"):
        freeze(net).verdict(X)
    assert all(map(torch.equal, state(net), before))


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Wild(Twice):
    """Reads its mode in a method that forward calls, two functions deep."""

    def scaled(self, x: Tensor) -> Tensor:
        return sum((2.0 * x if self.training else x) for _ in range(2))  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x)


class Asks(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if getattr(self, "training") else x  # noqa: B009


@pytest.mark.parametrize("part", [nn.ReLU(), Twice(), nn.Sequential(nn.Identity(), nn.Linear(3, 3))])
def test_an_unregistered_part_without_modes_may_stay_in_training_mode(part: nn.Module) -> None:
    net = Net()
    expected = part(net.eval()(X)).detach()
    net.others = [part]
    net.forward = MethodType(lambda self, x: self.others[0](Net.forward(self, x)), net)
    torch.testing.assert_close(freeze(net.train()).verdict(X), expected)


@pytest.mark.parametrize(
    "part",
    [nn.Dropout(), nn.BatchNorm1d(3), nn.RReLU(), Wild(), Asks(), nn.Sequential(nn.Dropout()),
     nn.LSTM(3, 3), nn.TransformerEncoderLayer(3, 1)],
)  # fmt: skip
def test_an_unregistered_part_with_modes_may_not(part: nn.Module) -> None:
    net = Net()
    net.others = [part]
    net.forward = MethodType(lambda self, x: self.others[0](Net.forward(self, x)), net)
    with pytest.raises(InputError, match=r"nn\.ModuleList"):
        freeze(net).verdict(X)
    net.forward = functools.partial(Net.forward, net)  # held, and not run
    freeze(net).verdict(X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modes_of_code_that_cannot_be_read_are_assumed() -> None:
    own = Twice()
    assert not has_modes(own)
    own.forward = lambda x: x
    assert has_modes(own)
    assert has_modes(torch.jit.script(Twice()))


def test_another_profiler_is_left_alone() -> None:
    def profiler(*event: object) -> None:
        pass

    sys.setprofile(profiler)
    try:
        freeze(Net()).verdict(X)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("doubtful", [True, False])
def test_only_the_first_pass_is_watched_and_only_where_code_may_stray(doubtful: bool) -> None:
    profilers = []

    class Net(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            profilers.append(sys.getprofile())
            return super().forward(input)

    class Other(Net):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if STRAY is not None else input

    frozen = Plain((Other if doubtful else Net)(4, 3))
    for _ in range(3):
        frozen.verdict(torch.rand(2, 4))
    assert (profilers[0] is not None) == doubtful
    assert profilers[1:] == [None, None]


STRAY: object = nn.ReLU()
HELD = {"net": [STRAY]}


def helper(x: Tensor) -> Tensor:
    return deeper(x)


def deeper(x: Tensor) -> Tensor:
    return x if HELD else -x


class Holder:
    net = STRAY


REFERENCE = weakref.ref(Holder)


def imports(x: Tensor) -> Tensor:
    from tests.engine.copying import test_inside

    return test_inside.STRAY(x)


def by_name(x: Tensor) -> Tensor:
    return globals()["STRAY"](x)


MAY_STRAY: dict[str, Callable[[Tensor], object]] = {
    "global": lambda x: STRAY,
    "container": lambda x: HELD,
    "function of a function": helper,
    "class": lambda x: Holder.net,
    "weak reference": lambda x: REFERENCE(),
    "inner function": lambda x: (lambda: STRAY)(),
    "import": imports,
    "name": by_name,
}


@pytest.mark.parametrize("forward", MAY_STRAY.values(), ids=MAY_STRAY)
def test_code_that_may_stray(forward: Callable[[Tensor], object]) -> None:
    net = Net()
    net.forward = forward
    assert may_stray(reachable(net))
