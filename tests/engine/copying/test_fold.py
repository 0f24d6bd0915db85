"""BatchNorm is folded where a watched pass shows it to be the same function, and nowhere else."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine import form, freeze, search_copy
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
        (nn.Sequential(nn.Conv1d(5, 5, 1), nn.BatchNorm1d(5), nn.Linear(5, 3)), (5,), 1, 0),
    ],
    ids=["one norm", "two norms", "square", "sequence", "no batch"],
)
def test_pairs_and_what_is_none(model: nn.Module, shape: tuple[int, ...], count: int, used: int) -> None:
    model, x = seen(model), torch.rand(5, *shape, dtype=torch.float64)
    own, expected = folded(model, x), model(x)
    assert len(own.rewriting.folds or ()) == count
    torch.testing.assert_close(own(x), expected, rtol=1e-12, atol=1e-12)
    assert own.used == ["fold"] * used


def test_a_copy_with_a_slightly_wrong_fold_is_not_used(logged, monkeypatch):
    real = Pair._fold

    def off(pair: Pair) -> tuple[nn.Parameter, nn.Parameter]:
        weight, bias = real(pair)
        return nn.Parameter(weight * 1.01, requires_grad=False), bias

    monkeypatch.setattr(Pair, "_fold", off)
    model, x = seen(net()).float(), torch.rand(5, 2, 6, 6)
    frozen = freeze(model)
    assert not frozen.exact
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
    for name, kept in frozen.search.form.model.get_submodule("0").state_dict().items():  # type: ignore[attr-defined]
        # before torch 2.6 instance_norm wrote back what it had read, as a mean
        torch.testing.assert_close(kept, model[0].state_dict()[name].to(kept.dtype), rtol=1e-6, atol=0)
        assert kept.dtype in (torch.float32, torch.int64)
    assert frozen.search.form.model.get_submodule("2").weight.dtype == torch.bfloat16  # type: ignore[attr-defined]


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
        assert any("not folded: conv" in note for note in frozen.notes) == refused
        parts = *frozen.search.form.model.modules(), *frozen.model.modules()  # type: ignore[attr-defined]
        rewriting = frozen.search.form.rewriting
        own = *frozen.search.form.model.parameters(), rewriting, rewriting.folds  # type: ignore[attr-defined]
        return [weakref.ref(each) for each in (frozen, frozen.search, *parts, *own, x)]

    left = passed(torch.rand(6, 2, 6, 6))
    assert len(left) > 8
    assert [each() for each in left] == [None] * len(left)


WRITES: dict[str, Callable[[Any], object]] = {
    "mean": lambda net: net[1].running_mean.add_(0.1),
    "var": lambda net: net[1].running_var.mul_(1.1),
    "scale": lambda net: net[1].weight.mul_(1.1),
    "shift": lambda net: net[1].bias.add_(0.1),
    "weight": lambda net: net[0].weight.mul_(1.1),
    "another mean": lambda net: setattr(net[1], "running_mean", net[1].running_mean + 0.1),
    "another weight": lambda net: setattr(net[0], "weight", nn.Parameter(1.1 * net[0].weight, False)),
    "data of its own": lambda net: setattr(net[0].weight, "data", 1.1 * net[0].weight.data),
}


class Writing(nn.Module):
    """Writes to its weights or statistics in eval mode, before the pass or inside it."""

    def __init__(self, what: str, inside: bool) -> None:
        super().__init__()
        self.net, self.what, self.inside, self.writes = net(), what, inside, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.inside:
            x = self.net[0](x)
        with torch.no_grad():
            WRITES[self.what](self.net)
        self.writes += 1
        return (self.net[1:] if self.inside else self.net)(x)


@pytest.mark.parametrize("inside", [False, True], ids=["before", "between"])
@pytest.mark.parametrize("what", WRITES)
def test_what_the_model_writes_is_followed(what: str, inside: bool) -> None:
    model = seen(Writing(what, inside)).requires_grad_(False)
    theirs, x = copy.deepcopy(model), torch.rand(5, 2, 6, 6, dtype=torch.float64)
    search = freeze(model).search
    search.prepare(x)
    for _ in range(3):  # as the search does, without comparing
        found = search.passed("logits", search.once, x)
        while theirs.writes < search.form.model.writes:  # type: ignore[attr-defined]
            expected = theirs(x)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def wide_net() -> nn.Sequential:
    """Its convolution makes 32 x 30 x 30 numbers an image, and is faster channels-last."""
    parts = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    return nn.Sequential(*parts)


@pytest.mark.parametrize("room", [0, 1], ids=["wide", "small"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_unfolded_weights_take_no_memory_where_none_reads_them(precision, room, monkeypatch):
    for module in (form, search_copy):
        monkeypatch.setattr(module, "SMALL", 32 * 30 * 30 * 4 + room)
    torch.manual_seed(0)
    model = wide_net()
    model(torch.rand(16, 3, 32, 32))
    x, y = torch.rand(5, 3, 32, 32), torch.arange(5) % 4
    frozen, given = freeze(model.eval(), precision), answers(model, x, y)
    frozen.input_gradient(x, y)
    (pair,) = frozen.search.form.rewriting.folds
    shared = pair.weight.data_ptr() == model[0].weight.data_ptr()
    assert shared == (precision == "fp32" and not room)
    assert pair.fresh
    assert pair.folded((x, None, None))[1].is_contiguous(memory_format=torch.channels_last)
    following = follow(model, precision)
    following.input_gradient(x, y)
    (own,) = following.search.form.rewriting.folds
    assert own.weight.data_ptr() != model[0].weight.data_ptr()
    if precision == "bf16":
        return
    for _ in range(2):  # by the folded weights, and by the others
        torch.testing.assert_close(frozen(x), given[0])
        torch.testing.assert_close(frozen.input_gradient(x, y)[2], given[1])
        frozen.search.use(frozen.search.form.without("fold"))
    with torch.no_grad():
        model[0].weight.mul_(-1.5)  # the next call freezes it anew
    torch.testing.assert_close(frozen(x), model(x).detach())


def heavy_net() -> nn.Sequential:
    """Its kernel of 1 by 1 has as many numbers as eight of its results: 64 x 4 x 4 from 128 channels."""
    first = nn.Conv2d(3, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.AvgPool2d(8)
    parts = *first, nn.Conv2d(128, 64, 1), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(1024, 4)
    return nn.Sequential(*parts)


@pytest.mark.parametrize("room", [0, 1], ids=["folded", "as it is"])
def test_a_large_kernel_of_one_by_one_stays_where_the_models_is(room, monkeypatch):
    monkeypatch.setattr(fold, "LARGE", 0)
    monkeypatch.setattr(fold, "MANY", 8 - room)
    torch.manual_seed(0)
    model = heavy_net()
    model(torch.rand(16, 3, 32, 32))
    x, y = torch.rand(5, 3, 32, 32), torch.arange(5) % 4
    frozen, given = freeze(model.eval()), answers(model, x, y)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], given[1])
    form = frozen.search.form
    assert (len(form.rewriting.folds), form.channels_last) == (2 - room, True)
    kernel = form.model[4].weight
    assert kernel.data_ptr() == model[4].weight.data_ptr()
    assert kernel.stride() == ((128, 1, 128, 128) if room else model[4].weight.stride())
    with torch.no_grad():
        model[4].weight.mul_(-1.5)
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], answers(model, x, y)[1])


class Drawn(nn.Module):
    """A net with noise that depends on the place of a row, or on the batch; or one that takes four rows."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.net, self.by = heavy_net(), by

    def forward(self, x: Tensor) -> Tensor:
        assert self.by != "four" or len(x) == 4
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
        return 20 * self.net(x * (1 + x.mean()) if self.by == "batch" else x + 0.1 * noise)


@pytest.mark.parametrize(("by", "count"), [("place", 16), ("batch", 24), ("four", 4)])
def test_a_model_whose_rows_are_no_parts_is_compared_whole(by, count, logged):
    torch.manual_seed(0)
    model, x, y = Drawn(by), torch.rand(count, 3, 32, 32), torch.arange(count) % 4
    model(torch.rand(count, 3, 32, 32))
    frozen = freeze(model.eval())
    if by == "batch":
        frozen.input_gradient(x[:3], y[:3])  # too few to tell
        assert frozen.search._rows_apart is None
    torch.testing.assert_close(frozen.input_gradient(x, y)[2], answers(model, x, y)[1])
    assert len(frozen.search.form.rewriting.folds) == 2
    assert not logged.text
