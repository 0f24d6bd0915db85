"""A copy owns no weights and runs its own parts; where there can be none, the model is searched as given."""

import functools
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, freeze
from fastadv.engine.copy import copied
from tests.engine.nets import Merges
from tests.logged import Logged
from tests.refusals import refuses
from tests.zoo.state import State

pytestmark = pytest.mark.usefixtures("search_copy")
X = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 3


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


def by_parent(net: Net) -> None:
    net.last.parents = [net]
    net.last.forward = MethodType(
        lambda self, x: self.parents[0].norm(nn.functional.pad(x @ self.weight.T, (0, 4))), net.last
    )


def by_unregistered(net: Net) -> None:
    net.others = [Net(seed=6).eval()]
    net.forward = MethodType(lambda self, x: self.others[0](x) + self.last.bias, net)


def by_activations(net: Net) -> None:
    """As networks keep whose features a loss reads: deepcopy refuses tensors that have a graph."""
    net.kept = net.first(X)
    net.others = [net.kept, {"made": (net.kept,)}]


# forwards that reach every part through the module itself
WAYS: dict[str, Callable[[Net], object]] = {
    "partial": lambda net: setattr(net, "forward", functools.partial(net.forward, sign=-1)),
    "parent": by_parent, "unregistered": by_unregistered, "activations": by_activations,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_the_model_in_eval_mode_and_leaves_it_alone(way: str) -> None:
    net = Net()
    WAYS[way](net)
    expected = net.eval()(X).detach()
    before = State.of(net.train())
    for twin in (copied(net), copied(net, buffers=True)):
        torch.testing.assert_close(twin(X), expected)
        assert not any(part.training for part in twin.modules())
        assert not any(weight.requires_grad for weight in twin.parameters())
        for mine, theirs in zip(twin.parameters(), net.parameters(), strict=True):
            assert mine.data_ptr() == theirs.data_ptr()
    frozen = freeze(net)
    torch.testing.assert_close(frozen(X), expected)
    assert frozen.input_gradient(X, Y)[2].abs().sum() > 0
    assert not any("fell back" in note for note in frozen.notes)
    before.check(net)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor, sign: int = 1) -> Tensor:
        self.passes += 1
        return super().forward(x, sign)


def test_what_the_forward_of_a_search_copy_writes_is_its_own() -> None:
    net = Counting().eval()
    frozen = freeze(net)
    frozen.input_gradient(X, Y)  # compared
    before = int(net.passes)
    frozen.input_gradient(X, Y)
    assert frozen.searches(X)
    assert net.passes == before


@pytest.mark.parametrize("prepared", [Plain, freeze])
@pytest.mark.parametrize(
    "call",
    [
        lambda net: functools.partial(net, sign=-1),
        lambda net: net.negated,
        lambda net: functools.partial(functools.partial(net.forward), sign=-1),
    ],
)
def test_bound_methods_and_partials_are_modules(call: Callable[[Net], Any], prepared: Any) -> None:
    net = Net()
    expected = -net.eval()(X).detach()
    before = State.of(net.train())
    model = prepared(call(net))
    for logits in (model.verdict(X), model(X), model.input_gradient(X, Y)[1]):
        torch.testing.assert_close(logits, expected)
    before.check(net)


def doubled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    @functools.wraps(forward)
    def call(x: Tensor) -> Tensor:
        return 2 * forward(x)

    return call


def by_swallowed(net: Net) -> None:
    def call(x: Tensor) -> Tensor:
        try:
            return net.last(net.norm(net.first(x)))
        except Exception:
            return x[:, :3]

    net.forward = call


# forwards that run parts of the model itself in any copy
STRAYS: dict[str, Callable[[Net], object]] = {
    "closure": lambda net: setattr(net, "forward", lambda x: 2 * net.last(net.drop(net.norm(net.first(x))))),
    "default": lambda net: setattr(net, "forward", lambda x, norm=net.norm: norm(net.first(x))[:, :3]),
    "wrapper": lambda net: setattr(net, "forward", doubled(doubled(net.forward))),
    "hook": lambda net: net.last.register_forward_hook(
        lambda part, args, out: out + net.norm(net.first(X[: len(out)]))[:, :3]
    ),
    "swallowed": by_swallowed,
}


@pytest.mark.parametrize("way", STRAYS)
def test_a_copy_that_would_run_the_original_is_not_used(way: str, logged: Logged) -> None:
    net = Net()
    STRAYS[way](net)
    expected = net.eval()(X).detach()
    before, frozen = State.of(net.train()), freeze(net)
    for logits in (frozen(X), frozen.input_gradient(X, Y)[1], frozen.verdict(X), Plain(net).verdict(X)):
        torch.testing.assert_close(logits, expected)
    before.check(net)
    assert frozen.exact
    assert len([note for note in frozen.notes if "of the original" in note]) == 1
    assert len(logged.records) == 1


class Guarded(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Refusing(Net):
    def __deepcopy__(self, memo: object) -> "Refusing":
        raise NotImplementedError("one of a kind")


class Itself(Net):
    def __deepcopy__(self, memo: object) -> "Itself":
        return self


@pytest.mark.parametrize(
    ("kind", "why"), [(Guarded, "pickle"), (Refusing, "one of a kind"), (Itself, "shares parts")]
)
def test_what_cannot_be_copied_is_searched_as_given(kind: Any, why: str, logged: Logged) -> None:
    """With one note and warning; what is nothing but a copy is refused."""
    model = kind().train()
    frozen = freeze(model, "bf16")
    value, logits, gradient = frozen.input_gradient(X, Y)
    torch.testing.assert_close((value, logits, gradient), Plain(model).input_gradient(X, Y))
    torch.testing.assert_close(frozen.verdict(X), logits)
    assert frozen.exact
    assert len([note for note in frozen.notes if why in note]) == 1
    assert len(logged.records) == 1
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for call in (
        lambda: fa.models.bpda(model, {"drop": "identity"}),
        lambda: fa.models.representation(model),
    ):
        refuses(rf"copy\.deepcopy can copy, got {kind.__name__} .*{why}", call)


def test_a_model_whose_eval_changes_its_weights() -> None:
    model = nn.Sequential(nn.Linear(5, 7), Merges(7, 3)).train()
    frozen = freeze(model)
    for _ in range(2):
        torch.testing.assert_close(frozen.input_gradient(X, Y)[1], frozen.verdict(X))
        assert model.training
    refuses(r"eval\(\) changes its weights", fa.models.representation, model)
    assert fa.models.representation(model.eval())(X).shape == (6, 7)


class Fresh(nn.Linear):
    def __deepcopy__(self, memo: object) -> "Fresh":
        twin = Fresh(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        return twin


class Reduced(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        return nn.Linear(self.in_features, self.out_features)


@pytest.mark.parametrize("kind", [Fresh, Reduced])
def test_a_deepcopy_of_its_own(kind: Any) -> None:
    """Whatever it gives, answers are those of the model as it is now."""
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), kind(4, 3))
    frozen = freeze(model)
    frozen.input_gradient(X, Y)
    with torch.no_grad():
        model[2].weight.mul_(2)
    expected = frozen.verdict(X)
    torch.testing.assert_close(expected, model.eval()(X).detach())
    torch.testing.assert_close(frozen.input_gradient(X, Y)[1], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("prepared", [freeze, Plain])
@pytest.mark.parametrize("traced", [False, True])
def test_scripted_modules_follow_training(traced: bool, prepared: Any) -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model: nn.Module = torch.jit.trace(net.eval(), X).train() if traced else torch.jit.script(net)  # type: ignore[no-untyped-call]
    asked = prepared(model)
    before = asked.verdict(X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.5)
        dict(model.named_buffers())["1.running_mean"].add_(0.3)
    expected = model.eval()(X).detach()
    assert not torch.allclose(before, expected)
    for logits in (asked.verdict(X), asked(X), asked.input_gradient(X, Y)[1]):
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("inside", [False, True])
def test_a_model_of_inference_mode(inside: bool) -> None:
    """Made there, and frozen there as well or outside."""
    with torch.inference_mode():
        model = Net()
    with torch.inference_mode(inside):
        asked = [freeze(model), Plain(model)]
    for one in asked:
        value, _, gradient = one.input_gradient(X, Y)
        assert gradient.abs().sum() > 0
        assert value.isfinite().all()


def test_an_eval_of_an_instance_is_called() -> None:
    """Which leaves a defense randomized."""
    noisy, x = nn.Sequential(nn.Dropout(0.5)).train(), torch.rand(2, 64)
    noisy.eval = lambda: noisy  # type: ignore[method-assign]
    plain = Plain(noisy)
    assert not torch.equal(plain.verdict(x), plain.verdict(x))
