"""Large batches pass a convolutional search copy in parts on a CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import room

pytestmark = pytest.mark.usefixtures("search_copy")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).tanh().mean((2, 3)))


def frozen(monkeypatch: pytest.MonkeyPatch, rows: int) -> fa.Frozen:
    """A Frozen for parts of so many rows of [2, 6, 7]."""
    monkeypatch.setattr(room, "BYTES", rows * 5 * 6 * 7 * 8)
    return fa.freeze(Net().double().eval())


@pytest.mark.usefixtures("asked_alone")
@pytest.mark.parametrize("count", [0, 1, 8, 9, 29, 30, 31, 100])
def test_parts_change_nothing(count: int, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    x = torch.rand(count, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, targets = torch.arange(count) % 4, (torch.arange(count) + 1) % 4
    whole = frozen(monkeypatch, 10**6)
    expected = whole(x), *whole.input_gradient(x, y, "cw", targets)
    split = frozen(monkeypatch, 10)
    for mine, theirs in zip((split(x), *split.input_gradient(x, y, "cw", targets)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        assert mine.shape == theirs.shape
    assert split.backwards == whole.backwards == count


def test_a_part_holds_what_fits(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    sizes: list[int] = []
    plain = nn.functional.linear

    def counted(x: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(x))
        return plain(x, *rest)

    monkeypatch.setattr(nn.functional, "linear", counted)
    x = torch.rand(31, 2, 6, 7, dtype=torch.float64)
    model = frozen(monkeypatch, 10)
    model(x)
    assert sizes.count(3) == 2  # tell how large their activations are
    assert model.forwards == sum(sizes)
    model.input_gradient(x, torch.zeros(31, dtype=torch.long))  # compares
    model.input_gradient(x, torch.zeros(31, dtype=torch.long))  # in parts as well
    assert sizes[-4:] == [8, 8, 8, 7]
    for ask, passed in ((lambda: model(x), [8, 8, 8, 7]), (lambda: model.verdict(x), [31])):
        sizes.clear()
        ask()
        assert sizes == passed


def test_a_function_as_loss_sees_the_whole_batch(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """It may hold a value for each sample, as the divergence of TRADES does."""
    draw = torch.Generator().manual_seed(1)
    x, goals = (torch.rand(57, *shape, dtype=torch.float64, generator=draw) for shape in ((2, 6, 7), (4,)))

    def away(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return (logits - goals).square().sum(1)

    y = torch.arange(57) % 4
    whole, split = (frozen(monkeypatch, rows).input_gradient(x, y, away) for rows in (10**6, 8))
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)
