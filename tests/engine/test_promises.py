"""Whoever else reads what a layer returns gets what it returns: the copy does not fold it, or is left."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastadv.engine import freeze
from fastadv.engine.search_copy import SearchCopy
from tests.engine.planted import needs_onednn
from tests.engine.rewritten import answers

pytestmark = pytest.mark.usefixtures("search_copy")
LEFT = (
    "fell back to the model as given: a folded layer, conv, whose result is not read by its BatchNorm alone"
)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return h * h

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient * ctx.saved_tensors[0]


class Later(torch.autograd.Function):
    """Reads its second argument backwards alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0].mean((1, 2, 3), keepdim=True), None


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    return h.mean((1, 2, 3))


class Net(nn.Module):
    """Where `when(x)` says so, `read` gets the result of the convolution; else its BatchNorm alone."""

    def __init__(self, read: str, when: Callable[[Tensor], bool] = lambda x: True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(48, 3)
        self.other, self.kept = nn.BatchNorm2d(3), None
        for norm in (self.norm, self.other):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.3, 2)
            nn.init.uniform_(norm.weight)
            nn.init.uniform_(norm.bias)
        self.read, self.when = read, when
        self.conv.register_forward_hook(Hook(self.wants))
        self.double().eval()

    def wants(self, x: Tensor, read: str) -> bool:
        return self.read == read and self.when(x)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        made = READS[self.read](self, h, x) if self.when(x) else self.norm(h)
        return self.head(made.flatten(1))


class Hook:
    def __init__(self, wants: Callable[[Tensor, str], bool]) -> None:
        self.wants = wants

    def __call__(self, layer: nn.Module, given: tuple[Tensor], made: Tensor) -> Tensor | None:
        return made * made.mean() if self.wants(given[0], "hook") else None


def in_place(net: Net, h: Tensor, x: Tensor) -> Tensor:
    h.mul_(2)
    return net.norm(h)


def written_out(net: Net, h: Tensor, x: Tensor) -> Tensor:
    """Into the memory of the result, which the BatchNorm reads afterwards."""
    torch.mul(h.detach(), 2, out=h.data)
    return net.norm(h)


def stored(net: Net, h: Tensor, x: Tensor) -> Tensor:
    net.kept = {"features": [h]}
    made = net.norm(h) * 2
    made = made + net.kept["features"][0]
    net.kept = None
    return made


def tensor_hook(net: Net, h: Tensor, x: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda gradient: 2 * gradient)
    return net.norm(h)


def other(part: str) -> Callable[[Net, Tensor, Tensor], Tensor]:
    """The BatchNorm with one tensor of another, or with another eps."""

    def read(net: Net, h: Tensor, x: Tensor) -> Tensor:
        names = "running_mean", "running_var", "weight", "bias"
        given = (getattr(net.other if name == part else net.norm, name) for name in names)
        return F.batch_norm(h, *given, eps=0.5 if part == "eps" else 1e-5)

    return read


def by_another_name(net: Net, h: Tensor, x: Tensor) -> Tensor:
    norm = net.norm
    statistics = norm.running_mean, norm.running_var
    return torch.batch_norm(h, norm.weight, norm.bias, *statistics, False, 0.1, 1e-5, False)


READS: dict[str, Callable[[Net, Tensor, Tensor], Tensor]] = {
    "skip": lambda net, h, x: net.norm(h) + h,
    "hook": lambda net, h, x: net.norm(h),
    "in place": in_place,
    "data": written_out,
    "stored": stored,
    "tensor hook": tensor_hook,
    "function": lambda net, h, x: net.norm(h) + Square.apply(h),
    "backwards": lambda net, h, x: net.norm(h) * Later.apply(x, h).mean(),
    "list": lambda net, h, x: torch.stack([h, net.norm(h)]).amax(0),
    "keyword": lambda net, h, x: net.norm(h) * torch.sigmoid(input=h),
    "number": lambda net, h, x: net.norm(h) * float(h.max()),
    "array": lambda net, h, x: net.norm(h) * h.detach().numpy().max(),
    "part": lambda net, h, x: net.norm(h[:, :, :2]).repeat(1, 1, 2, 1),
    "operator": lambda net, h, x: net.norm(h) * torch.ops.aten.amax.default(h),
    "scripted": lambda net, h, x: net.norm(h) * scripted(h)[:, None, None, None],
    "not at all": lambda net, h, x: h * 2,
    "alone": lambda net, h, x: x.repeat(1, 2, 1, 1)[:, :3, :4, :4] * 1.0,
    "twice": lambda net, h, x: net.norm(h) + 2 * net.norm(h),
    "another norm": lambda net, h, x: net.other(h),
    "both norms": lambda net, h, x: net.norm(h) + 2 * net.other(h),
    "statistics of the batch": lambda net, h, x: F.batch_norm(
        h, None, None, net.norm.weight, net.norm.bias, True
    ),
    "another eps": other("eps"),
    "another mean": other("running_mean"),
    "another scale": other("weight"),
    "torch.batch_norm": by_another_name,
    "checkpoint across": lambda net, h, x: checkpoint(lambda h: net.norm(h).tanh(), h, use_reentrant=False),
}


# that no function of torch tells: the comparison of gradients and logits does
UNSEEN = {"backwards", "scripted", "checkpoint across"}
# with another BatchNorm alone, or as long as there is no gradient
PAIRED = {"tensor hook", *(read for read in READS if read.startswith("another"))}


def problem(rows: int) -> tuple[Tensor, Tensor]:
    return torch.rand(rows, 2, 6, 6, dtype=torch.float64), torch.arange(rows) % 3


def fell_back(frozen: Any) -> bool:
    return any("fell back" in note for note in frozen.notes)


def assert_same(frozen: Any, x: Tensor, y: Tensor) -> None:
    logits, gradient = answers(frozen.model, x, y)
    found = frozen.input_gradient(x, y)
    torch.testing.assert_close(found[1], logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[2], gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(frozen(x), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("read", READS)
def test_read_in_the_watched_pass(read: str) -> None:
    frozen = freeze(Net(read))
    for rows in (5, 3):
        assert_same(frozen, *problem(rows))
    if read not in UNSEEN:
        assert f"folded {int(read in PAIRED)} BatchNorm" in frozen.notes
    assert fell_back(frozen) <= (read in UNSEEN or read == "tensor hook")


@pytest.mark.slow
@pytest.mark.parametrize("read", READS)
def test_read_in_passes_of_other_sizes_alone(read: str) -> None:
    if read == "scripted":
        pytest.skip("no mode sees what a scripted function reads, nor the comparison, which was made")
    frozen = freeze(Net(read, lambda x: len(x) == 7))
    assert_same(frozen, *problem(5))
    assert "folded 1 BatchNorm" in frozen.notes
    assert_same(frozen, *problem(7))
    assert LEFT in frozen.notes
    assert_same(frozen, *problem(5))


@pytest.mark.parametrize("read", READS)
def test_read_with_gradients_alone(read: str) -> None:
    frozen = freeze(Net(read, lambda x: torch.is_grad_enabled()))
    x, y = problem(5)
    frozen(x)
    assert "folded 1 BatchNorm" in frozen.notes
    logits, gradient = answers(frozen.model, x, y)
    for _ in range(2):
        found = frozen.input_gradient(x, y)
        torch.testing.assert_close(found[1], logits, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[2], gradient, rtol=1e-10, atol=1e-12)
    rows = frozen.jacobian(x, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))[1]
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(frozen.model(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(rows[:, 0], first, rtol=1e-10, atol=1e-12)


class Handler(Net):
    """Takes whatever its own pass raises, and goes on with something else."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except Exception:
            return self.head(x.flatten(1)[:, :48])


def test_a_models_own_handler_does_not_take_it() -> None:
    frozen = freeze(Handler("skip", lambda x: len(x) > 5))
    for rows in (4, 6):
        assert_same(frozen, *problem(rows))
    assert LEFT in frozen.notes


class Logits(nn.Module):
    """Returns what its first layer gives, where `when(x)` says so, and lets a BatchNorm read it anyway."""

    def __init__(self, when: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.conv, self.norm, self.when = nn.Linear(4, 3), nn.BatchNorm1d(3), when
        self.norm.running_mean.fill_(0.5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(x)
        normed = self.norm(logits)
        return logits if self.when(x) else normed


@pytest.mark.parametrize("more", [0, 5])
def test_logits_are_read_by_the_caller(more: int) -> None:
    frozen = freeze(Logits(lambda x: len(x) > more))
    for rows in (4, 6):
        x = torch.rand(rows, 4, dtype=torch.float64)
        assert_same(frozen, x, torch.arange(rows) % 3)
    assert fell_back(frozen) == (more > 0)
    assert f"folded {int(more > 0)} BatchNorm" in frozen.notes


def test_what_outlives_its_pass_is_read_by_someone() -> None:
    """A hook of the caller's stores features, and his loss reads them."""
    model, kept = Net("skip", lambda x: False), []
    model.conv.register_forward_hook(lambda layer, given, made: kept.append(made))
    frozen = freeze(model)
    x, y = problem(5)

    def loss(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        features.append(kept[-1].detach().clone())
        return logits.square().sum(1)

    for _ in range(2):
        features: list[Tensor] = []
        frozen.input_gradient(x, y, loss)
        expected = F.conv2d(x, model.conv.weight, model.conv.bias)
        torch.testing.assert_close(features[0], expected, rtol=1e-12, atol=1e-12)


def by_name(*names: str, more: int) -> Callable[[Net, Tensor], Tensor]:
    """Passes weight or bias by name, always or in larger passes alone."""

    def convolve(net: Net, x: Tensor) -> Tensor:
        own = {"weight": net.conv.weight, "bias": net.conv.bias}
        named = {name: value for name, value in own.items() if name in names and len(x) > more}
        return F.conv2d(x, *(value for name, value in own.items() if name not in named), **named)

    return convolve


CONVOLUTIONS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "bias by name": by_name("bias", more=0),
    "larger both by name": by_name("weight", "bias", more=5),
    "another bias": lambda net, x: F.conv2d(
        x, net.conv.weight, net.norm.weight if len(x) > 5 else net.conv.bias
    ),
    "a checkpoint that ends before the norm": lambda net, x: checkpoint(
        lambda x: net.conv(x.tanh()), x, use_reentrant=False
    ),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_other_calls_of_the_layer(kind: str) -> None:
    class Convolving(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(CONVOLUTIONS[kind](self, x)).tanh().flatten(1))

    frozen = freeze(Convolving("skip", lambda x: False))
    for rows in (4, 6, 4, 40):
        assert_same(frozen, *problem(rows))
    assert not fell_back(frozen)
    if "name" in kind:
        assert not any(note.startswith("not ") for note in frozen.notes)
    if kind == "another bias":
        assert "folded 1 BatchNorm" in frozen.notes


@pytest.mark.slow
@needs_onednn
def test_what_a_backward_of_ours_makes_a_checkpoint_compute_again_is_rewritten(monkeypatch):
    """Winograd's backward asks for what it saved, which runs the block once more, folded as before."""
    # the guard would hide a block that is run once more as it was given
    monkeypatch.setattr(SearchCopy, "compare", lambda *given: None)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(32, 64, 3, stride=2, padding=1, groups=2, bias=False)
            self.norm, self.wide = nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, padding=1)
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.3, 1)

        def body(self, x: Tensor) -> Tensor:
            return self.wide(F.relu(self.norm(self.conv(x))))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False)

    torch.manual_seed(0)
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), Block(), last).eval()
    x, y = torch.rand(32, 3, 24, 24), torch.arange(32) % 5
    frozen = freeze(net)
    _, _, found = frozen.input_gradient(x, y)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert "folded 1 BatchNorm" in frozen.notes
    assert not any(note.startswith("not ") for note in frozen.notes)


@pytest.mark.slow
def test_a_checkpoint_is_computed_again_as_before_whatever_other_passes_did() -> None:
    """Of ten passes some skip the folded block: the Jacobian is a mean of those of the block and of 1."""

    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(0.3)
            self.norm.running_var.fill_(0.04)

        def block(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)).tanh()

        def forward(self, x: Tensor) -> Tensor:
            if torch.rand(()) < 0.7:
                x = checkpoint(self.block, x, use_reentrant=False)
            return x.flatten(1)[:, :8]

    torch.manual_seed(0)
    model, x = Sometimes().double().eval(), torch.rand(2, 2, 4, 4, dtype=torch.float64)
    directions = torch.eye(8, dtype=torch.float64)[:1].expand(2, 1, 8)
    leaf = x.clone().requires_grad_()
    (block,) = torch.autograd.grad(model.block(leaf).flatten(1)[:, 0].sum(), leaf)
    (skipped,) = torch.autograd.grad(leaf.flatten(1)[:, 0].sum(), leaf)
    frozen = freeze(model, eot=10)
    for _ in range(20):
        found = frozen.jacobian(x, directions)[1][:, 0]
        means = [(share * block + (10 - share) * skipped) / 10 for share in range(11)]
        assert min(float((found - mean).abs().max()) for mean in means) < 1e-9
