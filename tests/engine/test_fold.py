"""BatchNorm is folded where that is the same function, and nowhere else."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.engine import freeze
from fastadv.engine.fold import Unfoldable, fold
from fastadv.engine.twin import twin


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
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in folded.modules())
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


class Misfolded(nn.Module):
    """Linear then BatchNorm over the middle of [B, C, C]: torch would fold it along the wrong side."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(25, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.linear(x)).flatten(1))


def test_a_wrong_fold_is_found_and_undone(caplog: pytest.LogCaptureFixture) -> None:
    model, x = seen(Misfolded()).eval(), torch.rand(5, 5, 5)
    frozen = freeze(model)
    torch.testing.assert_close(frozen(x), model(x))
    assert any("fell back" in note for note in frozen.notes)
    assert len(caplog.records) == 1
    assert frozen.exact
