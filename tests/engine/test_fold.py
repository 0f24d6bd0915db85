"""BatchNorm is folded where it alone reads a layer; whoever else reads that gets what the model gives."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine import freeze
from tests.engine.nets import answers

pytestmark = pytest.mark.usefixtures("search_copy")
Make = Callable[[], nn.Module]


def seen(model: nn.Module) -> nn.Module:
    """The model with BatchNorm statistics and weights unlike their initial ones, in eval mode and float64."""
    torch.manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor, low in (
                (part.weight, 0.5), (part.bias, -1.0), (part.running_var, 0.3), (part.running_mean, -1.0),
            ):  # fmt: skip
                if tensor is not None:
                    tensor.data.uniform_(low, low + 2)
    return model.double().eval()


def net(norm: nn.Module | None = None, size: int = 48) -> nn.Sequential:
    first = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3) if norm is None else norm
    return nn.Sequential(*first, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(size, 3))


def images(count: int = 5, *shape: int) -> tuple[Tensor, Tensor]:
    return torch.rand(count, *(shape or (2, 6, 6)), dtype=torch.float64), torch.arange(count) % 3


def assert_same(frozen: Any, x: Tensor, y: Tensor) -> None:
    logits, gradient = answers(frozen.source, x, y)
    _, by_gradient, found = frozen.input_gradient(x, y)
    for scores in (by_gradient, frozen(x)):
        torch.testing.assert_close(scores, logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-12)


# and how many BatchNorms are folded; the last two are none: BatchNorm works along the second dimension, a
# linear layer in [B, C, D] along the third, a convolution in [C, D] along the first
NETS: dict[str, tuple[Make, tuple[int, ...], int]] = {
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(18, 3)),
        (2, 8), 1,
    ),
    "conv2d": (net, (2, 6, 6), 1),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 3)
        ), (4, 6, 6), 1,
    ),
    "linear": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), (6,), 1,
    ),
    "logits": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (4,), 1),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(25, 3)), (5, 5), 0,
    ),
    "no batch": (lambda: nn.Sequential(nn.Conv1d(5, 5, 1), nn.BatchNorm1d(5), nn.Linear(5, 3)), (5,), 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETS)
def test_what_is_folded(kind: str) -> None:
    make, shape, count = NETS[kind]
    model = seen(make())
    frozen = freeze(model)
    assert_same(frozen, *images(5, *shape))
    assert f"folded {count} BatchNorm" in frozen.notes
    assert not any("fell back" in note for note in frozen.notes)


class Reading(nn.Module):
    """Something else than its BatchNorm reads the result of the convolution."""

    def __init__(self, read: Callable[["Reading", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(48, 3)
        self.other, self.read = nn.BatchNorm2d(3), read

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self, self.conv(x)).flatten(1))


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    return h.mean((1, 2, 3))


def in_place(net: Reading, h: Tensor) -> Tensor:
    h.mul_(2)
    return net.norm(h)


def written(net: Reading, h: Tensor) -> Tensor:
    """Into the memory of the result, which the BatchNorm reads afterwards."""
    torch.mul(h.detach(), 2, out=h.data)
    return net.norm(h)


def hooked(net: Reading, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(Tensor.square)
    return net.norm(h)


# readers that the graph of a pass shows: nothing is folded
SEEN: dict[str, Callable[[Reading, Tensor], Tensor]] = {
    "skip": lambda net, h: net.norm(h) + h,
    "part": lambda net, h: net.norm(h[:, :, :2]).repeat(1, 1, 2, 1),
    "scripted": lambda net, h: net.norm(h) * scripted(h)[:, None, None, None],
    "twice": lambda net, h: net.norm(h) + 2 * net.norm(h),
    "both norms": lambda net, h: net.norm(h) + 2 * net.other(h),
    "not at all": lambda net, h: h * 2,
    "a norm for nothing": lambda net, h: (h, net.norm(h))[0],
    "in place": in_place,
    "function": lambda net, h: F.batch_norm(h, net.norm.running_mean, net.norm.running_var, eps=0.5),
}
# readers that it does not show: the comparison finds them, and the model as given searches
UNSEEN: dict[str, Callable[[Reading, Tensor], Tensor]] = {
    "number": lambda net, h: net.norm(h) * float(h.detach().max()),
    "weight": lambda net, h: net.norm(h) * net.conv.weight.sum(),
    "bias": lambda net, h: net.norm(h) * net.conv.bias.sum(),
    "data": written,
    "tensor hook": hooked,
}


@pytest.mark.parametrize("read", [*SEEN, *UNSEEN])
def test_another_reader(read: str) -> None:
    frozen = freeze(seen(Reading({**SEEN, **UNSEEN}[read])))
    for count in (5, 3):
        assert_same(frozen, *images(count))
    assert f"folded {int(read in UNSEEN)} BatchNorm" in frozen.notes
    assert any("fell back" in note for note in frozen.notes) == (read in UNSEEN)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bfloat16_keeps_statistics(dtype: torch.dtype, norm: type[nn.BatchNorm2d]) -> None:
    """x is exact in bfloat16; 0.1231 is not, and the standard deviation of 0.003 makes that show."""
    torch.manual_seed(0)
    model = nn.Sequential(norm(3, affine=True, track_running_stats=True), nn.Flatten(), nn.Linear(48, 3))
    model[0].running_mean.copy_(torch.tensor([0.1231, 0.1257, 0.1239]))
    model[0].running_var.fill_(1.03e-5)
    model[0].weight.data.uniform_(0.5, 2)
    model, x = model.to(dtype).eval(), 0.125 + torch.randint(-2, 3, (6, 3, 4, 4)).to(dtype) / 256
    expected, frozen = model(x).detach(), freeze(model, "bf16")
    _, logits, _ = frozen.input_gradient(x, torch.arange(6) % 3)
    assert not frozen.exact
    assert (logits - expected).abs().max() / expected.abs().max() < 0.01
    for name, kept in frozen.search.model.get_submodule("0").state_dict().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(kept, model[0].state_dict()[name].to(kept.dtype), rtol=1e-6, atol=0)
        assert kept.dtype in (torch.float32, torch.int64)
    assert frozen.search.model.get_submodule("2").weight.dtype == torch.bfloat16  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("uncollected")
def test_copies_are_freed_with_their_last_user(precision: Any) -> None:
    def passed(x: Tensor) -> list[weakref.ref[object]]:
        frozen = freeze(seen(net()).float(), precision)
        for rows in (2, 6, 6):
            frozen.input_gradient(x[:rows], torch.zeros(rows, dtype=torch.long))
        assert "folded 1 BatchNorm" in frozen.notes
        copied: Any = frozen.search.model
        parts = *copied.modules(), *copied.parameters(), *frozen.model.modules()  # type: ignore[attr-defined]
        return [weakref.ref(thing) for thing in (frozen, frozen.search, *frozen.search.pairs, *parts, x)]

    left = passed(torch.rand(6, 2, 6, 6))
    assert len(left) > 8
    assert [thing() for thing in left] == [None] * len(left)
