"""A Frozen sees what changes in tensors, parts, modes and hooks: the next call takes it over, with a note."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

import fastadv as fa
from fastadv.engine.frozen import CHANGED
from tests.engine.nets import answers, apart
from tests.logged import Logged
from tests.refusals import refuses


class Net(nn.Module):
    """Two convolutions with BatchNorm, a shift of the input, and attributes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.one = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.second, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.fc = nn.Linear(8, 5)
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.T = 1.0

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.one(self.first(x - self.mean)))
        h = F.relu(self.two(self.second(h))).mean((2, 3))
        return self.fc(h) * self.T


X = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))  # enough for the search copy
Y = torch.arange(48) % 5


def steps(net: Any) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        optimizer.step()
    net.zero_grad()


CHANGES: dict[str, Callable[[Any], object]] = {
    "load_state_dict": lambda net: net.load_state_dict(Net(1).state_dict()),
    "SGD": steps,
    "data": lambda net: [setattr(weight, "data", 1.5 * weight.data) for weight in net.parameters()],
    "buffer": lambda net: net.mean.fill_(0.5),
    "statistics": lambda net: net.one.running_var.fill_(9.0),
    "part": lambda net: setattr(net, "fc", Net(1).fc),
    "parameter": lambda net: setattr(net.fc, "weight", nn.Parameter(-net.fc.weight.detach())),
    "hook": lambda net: net.one.register_forward_hook(lambda part, inputs, out: out * out),
    "pre-hook": lambda net: net.two.register_forward_pre_hook(lambda part, inputs: (inputs[0] * 2,)),
}


WAYS: dict[str, Callable[[Any], Tensor]] = {
    "verdict": lambda frozen: frozen.verdict(X),
    "search": lambda frozen: frozen(X),
    "gradient": lambda frozen: frozen.input_gradient(X, Y)[2],
    "jacobian": lambda frozen: frozen.jacobian(X, torch.eye(5).expand(48, 5, 5))[0],
    "model": lambda frozen: frozen.model(X).detach(),
}


@pytest.mark.slow
def test_every_answer_is_that_of_the_model_as_it_is_now(logged: Logged) -> None:
    """Each change is seen by another question first; counts go on, and the log tells it once."""
    net = Net().eval()
    frozen, ways = fa.freeze(net), deque(WAYS.items())
    frozen.input_gradient(X, Y)
    for change, make in CHANGES.items():
        before, counted = frozen.verdict(X), (frozen.forwards, frozen.backwards)
        make(net)
        logits, gradient = answers(net, X, Y)
        assert apart(before, logits) > 0.03, change  # or it would tell nothing
        ways.rotate()
        for name, ask in ways:
            expected = gradient if name == "gradient" else logits
            assert apart(ask(frozen), expected) < 1e-4, (change, name)
        clean = frozen.clean_pass(X)
        assert clean is not None
        assert apart(clean.logits, logits) < 1e-4, change
        assert frozen.forwards >= counted[0] + 4 * 48 + 16
        assert frozen.backwards == counted[1] + (1 + 5) * 48 + 2 * 16  # gradients of both are compared, too
        assert frozen.notes.count(CHANGED) == 1
    assert [record.getMessage() for record in logged.records] == [f"freeze: {CHANGED}"]


@pytest.mark.slow
def test_a_changed_attribute_is_seen_by_the_verdict_alone() -> None:
    net = Net().eval()
    frozen = fa.freeze(net)
    before = frozen.input_gradient(X, Y)[1]
    net.T = 3.0
    assert torch.equal(frozen.verdict(X), net(X).detach())
    assert torch.equal(frozen.input_gradient(X, Y)[1], before)
    assert CHANGED not in frozen.notes
    out = fa.attacks.bim(frozen, X, Y, fa.Linf(0.1), steps=2)
    assert torch.equal(out.success, net(out.x_adv).argmax(1) != Y)


@pytest.mark.slow
def test_nothing_is_frozen_anew_where_nothing_changed(logged: Logged) -> None:
    class Kept(Net):
        """One that keeps what it computes, and counts its calls in an attribute, a list and a buffer."""

        def __init__(self) -> None:
            super().__init__()
            self.all, self.calls = [0], 0
            self.register_buffer("rows", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.all[0] += 1
            self.calls += 1
            self.rows += len(x)
            self.features: Tensor = super().forward(x)
            return self.features

    net = Kept().eval()
    frozen = fa.freeze(net)
    frozen.input_gradient(X, Y)
    search = frozen.search
    for _ in range(2):
        frozen.verdict(X)
        frozen.input_gradient(X[:3], Y[:3])
        fa.attacks.pgd(frozen, X, Y, fa.Linf(0.1), steps=2)
    net.T = 1.0  # the same value
    frozen(X)
    assert net.calls == net.all[0] > 0
    assert frozen.search is search
    assert CHANGED not in frozen.notes
    assert not logged.records


def test_a_change_that_cannot_be_frozen_is_refused() -> None:
    net = Net().eval()
    frozen = fa.freeze(net)
    frozen.verdict(X)
    net.fc = nn.LazyLinear(5)
    for _ in range(2):
        refuses("initialized parameters", frozen.verdict, X)
    net.fc = Net().fc
    assert apart(frozen.verdict(X), net(X)) < 1e-5


def test_hooks_on_every_module_are_those_of_the_model() -> None:
    net = Net().eval()
    frozen = fa.freeze(net)
    frozen.input_gradient(X, Y)

    def halves(part: nn.Module, args: Any, result: Any) -> Any:
        return result / 2 if isinstance(part, nn.Conv2d) else None

    hook = register_module_forward_hook(halves)
    try:
        logits, gradient = answers(net, X, Y)
        _, searched, pulled = frozen.input_gradient(X, Y)
    finally:
        hook.remove()
    assert torch.equal(searched, logits)
    assert apart(pulled, gradient) < 1e-5
    assert apart(frozen.input_gradient(X, Y)[1], logits) > 0.01
