"""BatchNorm is folded where that is the same function, and nowhere else."""

import copy
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastadv.engine import freeze
from fastadv.engine.fold import FOLDED_BY, Unfoldable, fold
from fastadv.engine.twin import twin
from tests.logged import Logged

torch.fx.wrap("checked")


def checked(x: Tensor) -> Tensor:
    """What no trace can follow."""
    assert len(x)
    return x


class Checked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(self.conv(checked(x))).mean((2, 3)))
        return logits


def seen(model: nn.Module, *shape: int) -> nn.Module:
    """The model with BatchNorm statistics and weights unlike their initial ones."""
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
    return model


PAIRS = [
    (nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(18, 3)), (2, 8)),
    (
        nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
        ),
        (2, 6, 6),
    ),
    (
        nn.Sequential(
            nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 3)
        ),
        (4, 6, 6),
    ),
    (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(54, 3)), (1, 4, 4, 4)),
    (nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), (6,)),
]


@pytest.mark.parametrize(("model", "shape"), PAIRS, ids=["conv1d", "conv2d", "grouped", "conv3d", "linear"])
def test_same_function(model: nn.Module, shape: tuple[int, ...]) -> None:
    model, x = seen(model).eval(), torch.rand(5, *shape)
    folded, count = fold(twin(model))
    assert count == 1
    for part in folded.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_hook(lambda part, given, made: pytest.fail("BatchNorm ran"))
    torch.testing.assert_close(folded(x), model(x))


class Shared(nn.Module):
    """One convolution called twice, each time with a BatchNorm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second, self.head = (
            nn.Conv2d(2, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.BatchNorm2d(2),
            nn.Linear(32, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.conv(self.first(self.conv(x))))
        return self.head(x.flatten(1))


class Forked(nn.Module):
    """A convolution whose output is used beside the BatchNorm too, and weights that are read directly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(32, 3)
        self.second, self.after = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.after(self.second(self.norm(x) + x)) * self.second.weight.sum()
        return self.head(x.flatten(1))


class Steering(nn.Module):
    """Decides by values, which torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PAIRS[1][0]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x if x.sum() > 0 else -x)
        return logits


@pytest.mark.parametrize("model", [Shared(), Forked()])
def test_pairs_that_are_not_pairs_stay(model: nn.Module) -> None:
    model, x = seen(model).eval(), torch.rand(5, 2, 4, 4)
    folded, count = fold(twin(model))
    assert count == 0
    torch.testing.assert_close(folded(x), model(x))


def test_untraceable_is_noted_and_searched_as_it_is() -> None:
    model, x = seen(Steering()).eval(), torch.rand(5, 2, 6, 6)
    frozen = freeze(model)
    assert any("torch.fx cannot trace" in note for note in frozen.notes)
    torch.testing.assert_close(frozen(x), model(x))


def test_hooks_are_kept() -> None:
    model, x, calls = seen(PAIRS[1][0]).eval(), torch.rand(5, 2, 6, 6), []
    handle = model.register_forward_hook(lambda module, given, logits: calls.append(1) or -logits)
    frozen = freeze(model)
    assert any("hooks" in note for note in frozen.notes)
    torch.testing.assert_close(frozen(x), model(x))
    handle.remove()
    with pytest.raises(Unfoldable):
        fold(twin(nn.Linear(2, 2)))


class Sequence(nn.Module):
    """Linear, then BatchNorm over the middle of [B, C, C], for which torch's fusion is wrong."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(size, size), nn.BatchNorm1d(channels)
        self.head, self.second, self.last = nn.Linear(channels * size, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.second(self.head(self.norm(self.linear(x)).flatten(1))))
        return logits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("channels", "size", "pairs"), [(5, 5, 2), (5, 6, 1)])
def test_batch_norm_over_a_sequence_is_the_same_function(
    channels: int, size: int, pairs: int, precision: str
) -> None:
    torch.manual_seed(0)
    model, x = Sequence(channels, size).eval(), torch.rand(5, channels, size)
    # so close to doing nothing that the bound of bfloat16 would let the wrong fold pass
    model.norm.running_var.uniform_(0.9, 1.1)
    model.norm.running_mean.uniform_(-0.1, 0.1)
    frozen, expected = freeze(model, precision), model(x).detach()
    error = (frozen(x) - expected).abs().max() / (expected - expected.mean(1, keepdim=True)).abs().max()
    assert error <= (1e-5 if precision == "fp32" else 0.02)
    assert f"folded {pairs} BatchNorm" in frozen.notes
    assert not any("fell back" in note for note in frozen.notes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_slightly_wrong_fold_is_noticed(
    precision: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One percent is within the rounding of bfloat16, so the fold is compared before the conversion."""

    def off(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
        made = fuse_conv_bn_eval(layer, norm)
        made.weight.data *= 1.01
        return made

    monkeypatch.setitem(FOLDED_BY, (nn.Conv2d, nn.BatchNorm2d), off)
    model, x = seen(PAIRS[1][0]).eval(), torch.rand(5, 2, 6, 6)
    frozen = freeze(model, precision)
    assert not frozen.exact
    torch.testing.assert_close(frozen(x), model(x))
    assert "rounding allows" in frozen.notes[-1]
    assert [record.levelname for record in logged.records] == ["WARNING"]
    assert frozen.exact
    assert frozen.layout(x).is_contiguous()


class Odd(nn.Sequential):
    """Calls its layers with a factor; a trace of `forward` would lose it."""

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = super().__call__(x)
        return 1.003 * logits


class Stubborn(nn.Sequential):
    """Keeps its BatchNorm in training mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self[1].training = True
        return self


def test_an_overridden_call_is_not_lost() -> None:
    model, x = Odd(*seen(PAIRS[1][0])).eval(), torch.rand(5, 2, 6, 6)
    for precision in ("fp32", "bf16"):
        frozen = freeze(model, precision)
        torch.testing.assert_close(frozen.verdict(x), model(x))
        assert "not folded: the model has a forward or __call__ of its own" in frozen.notes
        assert not any("fell back" in note for note in frozen.notes)


@pytest.mark.parametrize("index", [0, 1])
def test_a_layer_with_a_forward_of_its_own_is_not_folded(index: int) -> None:
    model = seen(copy.deepcopy(PAIRS[1][0])).eval()
    forward = model[index].forward
    model[index].forward = lambda x: 1.0005 * forward(x)
    folded, count = fold(twin(model))
    x = torch.rand(5, 2, 6, 6)
    assert count == 0
    torch.testing.assert_close(folded(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [Stubborn, nn.Sequential])
def test_batch_statistics_are_not_folded(kind: type[nn.Sequential]) -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=kind is Stubborn)
    model = seen(kind(nn.Conv2d(2, 3, 3), norm, nn.Flatten(), nn.Linear(48, 3))).eval()
    before, x = copy.deepcopy(model), torch.rand(5, 2, 6, 6)
    expected = copy.deepcopy(model)(x)
    folded, count = fold(twin(model))
    assert count == 0
    torch.testing.assert_close(folded(x), expected)
    for follow in (True, False):
        torch.testing.assert_close(freeze(model, fold=not follow).verdict(x), expected)
    for theirs, kept in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(theirs, kept)


def test_a_linear_layer_takes_rows_and_sequences_after_folding() -> None:
    model = seen(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))).eval()
    folded, count = fold(twin(model))
    assert count == 1
    for x in (torch.rand(3, 4), torch.rand(3, 4, 4), torch.rand(0, 4)):
        torch.testing.assert_close(folded(x), model(x))


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
    if norm is nn.SyncBatchNorm:  # off CUDA it runs in eval mode alone, and is not traced
        assert model[0].eval()(x).isfinite().all()
    expected = model(x).detach()
    frozen = freeze(model, "bf16")
    error = (frozen(x) - expected).abs().max() / expected.abs().max()
    assert error < 0.01
    assert not frozen.exact
    for name, kept in frozen.search.model.get_submodule("0").state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(kept, model[0].state_dict()[name].to(kept.dtype))
        assert kept.dtype in (torch.float32, torch.int64)
    assert frozen.search.model.get_submodule("2").weight.dtype == torch.bfloat16  # type: ignore[attr-defined]


@pytest.mark.usefixtures("uncollected")
def test_twins_are_freed_with_their_last_user() -> None:
    def passed(x: Tensor) -> list[weakref.ref[object]]:
        frozen = freeze(Checked().eval())
        frozen.input_gradient(x, torch.zeros(2, dtype=torch.long))
        assert "folded 1 BatchNorm" in frozen.notes
        parts = *frozen.search.model.modules(), *frozen.model.modules()  # type: ignore[attr-defined]
        return [weakref.ref(each) for each in (frozen, frozen.search, *parts, x)]

    left = passed(torch.rand(2, 2, 6, 6))
    assert len(left) > 8
    assert [each() for each in left] == [None] * len(left)


class Noisy(Checked):
    """A trace would keep the draw, which no argument of the trace leads to."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.rand(1))


def test_what_a_model_draws_is_drawn_in_each_pass() -> None:
    frozen, x = freeze(Noisy().eval()), torch.rand(2, 2, 6, 6)
    assert not torch.equal(frozen(x), frozen(x))
    assert any("draws random numbers" in note for note in frozen.notes)


def test_a_trace_leaves_nothing_in_torch() -> None:
    before = len(torch.fx._symbolic_trace._wrapped_fns_to_patch)
    fold(twin(Checked().eval()))
    assert len(torch.fx._symbolic_trace._wrapped_fns_to_patch) == before
