"""BatchNorm is folded where a watched pass shows it to be the same function, and nowhere else."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine import freeze, search_copy
from fastadv.engine.copying import fold
from fastadv.engine.copying.fold import Pair
from fastadv.engine.freeze import follow
from tests.engine.rewritten import answers, folded

pytestmark = pytest.mark.usefixtures("search_copy")


class Own(nn.BatchNorm2d):
    """A subclass whose forward calls the function itself."""

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class Functional(nn.Module):
    """Functions of parameters and buffers, with no layer in sight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(3, 2, 3, 3) / 4), nn.Parameter(torch.randn(3))
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("var", torch.rand(3) + 0.3)
        self.head = nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(x, self.weight, None, 1, 0)
        h = F.batch_norm(h, self.mean, self.var, bias=self.shift, eps=0.1)
        return self.head(h.flatten(1))


def seen(model: nn.Module) -> nn.Module:
    """The model with BatchNorm statistics and weights unlike their initial ones, in eval mode and float64."""
    torch.manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor, low in (
                (part.weight, 0.5),
                (part.bias, -1.0),
                (part.running_var, 0.3),
                (part.running_mean, -1.0),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, low + 2)
    return model.double().eval()


def net(norm: nn.Module | None = None) -> nn.Sequential:
    norm = nn.BatchNorm2d(3) if norm is None else norm
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 3)
    )


PAIRS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(18, 3)),
        (2, 8),
    ),
    "conv2d": (net, (2, 6, 6)),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 3)
        ),
        (4, 6, 6),
    ),
    "linear": (
        lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
        (6,),
    ),
    "subclass": (lambda: net(Own(3)), (2, 6, 6)),
    "functional": (Functional, (2, 6, 6)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_same_function(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = PAIRS[kind]
    model = seen(make())
    x, y = torch.rand(5, *shape, dtype=torch.float64), torch.arange(5) % 3
    logits, gradient = answers(model, x, y)
    own = folded(model, x)
    monkeypatch.setattr(torch, "batch_norm", lambda *given: pytest.fail("BatchNorm ran"))
    found, by_fold = answers(own, x, y)
    assert own.used == ["fold"]
    torch.testing.assert_close(found, logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_fold, gradient, rtol=1e-12, atol=1e-12)


class Shared(nn.Module):
    """One convolution called twice."""

    def __init__(self, norms: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(32, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(norms))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[-1](self.conv(self.norms[0](self.conv(x))))
        return self.head(x.flatten(1))


def sequence(channels: int, size: int) -> nn.Module:
    """Linear, then BatchNorm over the middle of [B, C, D], which cannot be folded; and a pair that can."""
    head = nn.Linear(channels * size, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
    return nn.Sequential(nn.Linear(size, size), nn.BatchNorm1d(channels), nn.Flatten(), *head)


@pytest.mark.parametrize(
    ("model", "shape", "count", "used"),
    [
        (Shared(1), (2, 4, 4), 1, 2),
        (Shared(2), (2, 4, 4), 0, 0),
        (sequence(5, 5), (5, 5), 1, 1),
        (sequence(5, 6), (5, 6), 1, 1),
        # which reads [5, 5] as one image of five channels, and BatchNorm reads its result as five samples
        (nn.Sequential(nn.Conv1d(5, 5, 1), nn.BatchNorm1d(5), nn.Linear(5, 3)), (5,), 0, 0),
    ],
    ids=["one norm", "two norms", "square", "sequence", "no batch"],
)
def test_pairs_and_what_is_none(model: nn.Module, shape: tuple[int, ...], count: int, used: int) -> None:
    model, x = seen(model), torch.rand(5, *shape, dtype=torch.float64)
    own, expected = folded(model, x), model(x)
    assert len(own.rewriting.folds.pairs) == count
    torch.testing.assert_close(own(x), expected, rtol=1e-12, atol=1e-12)
    assert own.used == ["fold"] * used


def test_a_copy_with_a_slightly_wrong_fold_is_not_used(logged, monkeypatch):
    real = Pair._folded
    monkeypatch.setattr(Pair, "_folded", lambda pair: (real(pair)[0] * 1.01, real(pair)[1]))
    model, x = seen(net()).float(), torch.rand(5, 2, 6, 6)
    frozen = freeze(model)
    assert torch.equal(frozen(x), model(x).detach())
    assert frozen.exact
    assert [record.levelname for record in logged.records] == ["WARNING"]


class Stubborn(nn.Sequential):
    """Keeps its BatchNorm in training mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self[1].training = True
        return self


@pytest.mark.parametrize("kind", [Stubborn, nn.Sequential])
def test_batch_statistics_are_not_folded(kind: type[nn.Sequential]) -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=kind is Stubborn)
    model = seen(kind(nn.Conv2d(2, 3, 3), norm, nn.Flatten(), nn.Linear(48, 3)))
    before, x = copy.deepcopy(model), torch.rand(5, 2, 6, 6, dtype=torch.float64)
    expected = copy.deepcopy(model)(x)
    own = folded(copy.deepcopy(model), x)
    torch.testing.assert_close(own(x), expected, rtol=1e-12, atol=1e-12)
    assert own.used == []
    frozen = freeze(model)
    torch.testing.assert_close(frozen(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(frozen.verdict(x), expected)
    assert "folded 1 BatchNorm" not in frozen.notes
    for theirs, kept in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(theirs, kept)


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
    if norm is nn.SyncBatchNorm:  # off CUDA it runs in eval mode alone
        assert model[0].eval()(x).isfinite().all()
    expected = model(x).detach()
    frozen = freeze(model, "bf16")
    error = (frozen(x) - expected).abs().max() / expected.abs().max()
    assert error < 0.01
    assert not frozen.exact
    for name, kept in frozen.search.model.get_submodule("0").state_dict().items():  # type: ignore[attr-defined]
        # before torch 2.6 instance_norm wrote back what it had read, as a mean
        torch.testing.assert_close(kept, model[0].state_dict()[name].to(kept.dtype), rtol=1e-6, atol=0)
        assert kept.dtype in (torch.float32, torch.int64)
    assert frozen.search.model.get_submodule("2").weight.dtype == torch.bfloat16  # type: ignore[attr-defined]


class Checked(nn.Module):
    """Its convolution has one reader, or with `much` a second one in passes of more than five rows."""

    def __init__(self, much: bool = False) -> None:
        super().__init__()
        self.much = much
        self.conv, self.norm, self.linear = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.much and len(x) > 5:
            h = h.tanh()
        return self.linear(self.norm(h).mean((2, 3)))


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("uncollected")
def test_twins_are_freed_with_their_last_user(precision: Any, refused: bool) -> None:
    def passed(x: Tensor) -> list[weakref.ref[object]]:
        frozen = freeze(Checked(refused).eval(), precision)
        for rows in (2, 6, 6):
            frozen.input_gradient(x[:rows], torch.zeros(rows, dtype=torch.long))
        assert "folded 1 BatchNorm" in frozen.notes
        assert any("folded layer, conv" in note for note in frozen.notes) == refused
        parts = *frozen.search.model.modules(), *frozen.model.modules()  # type: ignore[attr-defined]
        rewriting = frozen.search.rewriting
        own = *frozen.search.model.parameters(), rewriting, rewriting.folds  # type: ignore[attr-defined]
        return [weakref.ref(each) for each in (frozen, frozen.search, *parts, *own, x)]

    left = passed(torch.rand(6, 2, 6, 6))
    assert len(left) > 8
    assert [each() for each in left] == [None] * len(left)


WRITES: dict[str, Callable[[Any], object]] = {
    "mean": lambda net: net[1].running_mean.add_(0.1),
    "shift": lambda net: net[1].bias.add_(0.1),
    "weight": lambda net: net[0].weight.mul_(1.1),
    "another mean": lambda net: setattr(net[1], "running_mean", net[1].running_mean + 0.1),
    "data of its own": lambda net: setattr(net[0].weight, "data", 1.1 * net[0].weight.data),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_copy_whose_weights_the_model_writes_is_left(what: str) -> None:
    class Writing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[0](x)
            with torch.no_grad():
                WRITES[what](self)
            return nn.Sequential(*list(self)[1:]).eval()(x)

    frozen = freeze(seen(Writing(*net())))
    frozen(torch.rand(5, 2, 6, 6, dtype=torch.float64))
    assert frozen.exact
    assert "a folded layer, 0, whose result" in frozen.notes[-1]


def wide_net() -> nn.Sequential:
    """Its convolution makes 32 x 30 x 30 numbers an image, and is faster channels-last."""
    parts = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    return nn.Sequential(*parts)


@pytest.mark.parametrize("room", [0, 1], ids=["wide", "small"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_unfolded_weights_take_no_memory_where_none_reads_them(precision, room, monkeypatch):
    monkeypatch.setattr(search_copy, "SMALL", 32 * 30 * 30 * 4 + room)
    torch.manual_seed(0)
    model = wide_net()
    model(torch.rand(16, 3, 32, 32))
    x, y = torch.rand(5, 3, 32, 32), torch.arange(5) % 4
    frozen, given = freeze(model.eval(), precision), answers(model, x, y)
    frozen.input_gradient(x, y)
    (pair,) = frozen.search.rewriting.folds.pairs.values()
    shared = pair.weight.data_ptr() == model[0].weight.data_ptr()
    assert shared == (precision == "fp32" and not room)
    assert pair.fresh
    assert pair.made[0].is_contiguous(memory_format=torch.channels_last)
    following = follow(model, precision)
    following.input_gradient(x, y)
    (own,) = following.search.rewriting.folds.pairs.values()
    assert own.weight.data_ptr() != model[0].weight.data_ptr()
    if precision == "fp32":
        torch.testing.assert_close(frozen(x), given[0])
        torch.testing.assert_close(frozen.input_gradient(x, y)[2], given[1])


@pytest.mark.parametrize("room", [0, 1], ids=["folded", "as it is"])
def test_a_large_kernel_of_one_by_one_stays_where_the_models_is(room, monkeypatch):
    """It has as many numbers as eight of its results: 64 x 4 x 4 from 128 channels."""
    monkeypatch.setattr(fold, "LARGE", 0)
    monkeypatch.setattr(fold, "MANY", 8 - room)
    torch.manual_seed(0)
    first = nn.Conv2d(3, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.AvgPool2d(8)
    last = nn.Conv2d(128, 64, 1), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(1024, 4)
    model = nn.Sequential(*first, *last)
    model(torch.rand(16, 3, 32, 32))
    x, y = torch.rand(5, 3, 32, 32), torch.arange(5) % 4
    frozen, expected = freeze(model.eval()), answers(model, x, y)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], expected[1])
    search = frozen.search
    assert (len(search.rewriting.folds.pairs), search.channels_last) == (2 - room, True)
    kernel = search.model[4].weight
    assert kernel.data_ptr() == model[4].weight.data_ptr()
    assert kernel.stride() == ((128, 1, 128, 128) if room else model[4].weight.stride())
    with torch.no_grad():
        model[4].weight.mul_(-1.5)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], answers(model, x, y)[1])
