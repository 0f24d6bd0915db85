"""`batch_size="auto"`: doubled as long as it gains and memory holds it; results are those of any size."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet, batch_size
from fastadv.data.batch_size import fastest_batch_size
from fastadv.errors import InputError


class Net(nn.Module):
    """A linear model that notes how many rows pass, and has room for so many."""

    def __init__(self, room: int = 1 << 20) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.room = nn.Linear(12, 4), room
        self.passed: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passed.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        logits: Tensor = self.layer(x.flatten(1))
        return logits


class Clock:
    """Stands for `time`: a pass takes a second, and one for each further `rows`."""

    def __init__(self, net: Net, rows: int) -> None:
        self.net, self.rows = net, rows

    def perf_counter(self) -> float:
        return sum(1 + count / self.rows for count in self.net.passed)


def images(count: int = 300) -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, 2, 2, generator=draw)
    return ImageSet(x, torch.arange(count) % 4, name="random", classes=tuple("abcd"))


@pytest.mark.parametrize(("rows", "most", "expected"), [
    (1e9, 1000, 512), (1e9, 1024, 1024), (1e9, 10**6, 4096), (64.0, 1000, 512), (4.0, 1000, 64),
    (1e-3, 1000, 32), (1e9, 40, 32),
])  # fmt: skip
def test_the_size_that_gains(rows: float, most: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    frozen = fa.freeze(net)
    monkeypatch.setattr(batch_size, "time", Clock(frozen.model, rows))  # type: ignore[arg-type]
    frozen.input_gradient(images().x[:2], images().y[:2])
    before = frozen.forwards, frozen.backwards
    assert fastest_batch_size(frozen, images().x[:32], most) == expected
    assert (frozen.forwards, frozen.backwards) == before


@pytest.mark.parametrize("mixed", [False, True])
def test_memory_ends_it(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(room=200)
    if mixed:  # its rows pass together or not at all
        net.layer = nn.Sequential(net.layer, nn.BatchNorm1d(4, track_running_stats=False))
    # of passes that take no time, the largest would be the best
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    assert fastest_batch_size(fa.freeze(net), images().x[:32], 1000) == 128


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is chosen: 64 the first time, and another size each time after."""
    chosen: list[int] = []

    def choose(frozen: Any, x: Tensor, most: int) -> int:
        assert len(x) == min(32, most)
        chosen.append(64 - 8 * len(chosen))
        return chosen[-1]

    monkeypatch.setattr(batch_size, "fastest_batch_size", choose)
    return chosen


def pgd(seen: list[int]) -> Any:
    def attack(model: Any, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Any:
        seen.append(len(x))
        return fa.attacks.pgd(model, x, y, fa.Linf(0.1), steps=2, seed=1, ids=ids)

    return attack


@pytest.mark.slow
def test_an_evaluation(sizes: list[int], tmp_path: Path) -> None:
    seen: list[int] = []
    data, model = images(150), Net().eval()
    table = fa.evaluate(model, data, {"PGD": pgd(seen)}, batch_size="auto", run_dir=tmp_path / "run")
    assert sizes == [64]
    assert max(seen) <= 64
    assert len(seen) == 3
    plain = fa.evaluate(model, data, {"PGD": pgd(seen)})
    assert table["PGD"].robust_accuracy == plain["PGD"].robust_accuracy
    assert torch.equal(table["PGD"].distance, plain["PGD"].distance)
    with pytest.raises(InputError, match="run_dir: expected a new folder"):
        fa.evaluate(model, data, {"PGD": pgd(seen)}, batch_size="auto", run_dir=tmp_path / "run")
    assert sizes == [64]
    # one that goes on keeps its size
    (next((tmp_path / "run").glob("part-00001*"))).unlink()
    seen.clear()
    again = fa.evaluate(
        model, data, {"PGD": pgd(seen)}, batch_size="auto", run_dir=tmp_path / "run", resume=True
    )
    assert sizes == [64]
    assert len(seen) == 1
    assert torch.equal(again["PGD"].distance, plain["PGD"].distance)
    # and a new one with resume=True chooses
    fa.evaluate(
        model, data, {"PGD": pgd(seen)}, batch_size="auto", run_dir=tmp_path / "other", resume=True, limit=20
    )
    assert sizes == [64, 56]


def test_a_construction_that_is_finished_is_not_timed(sizes: list[int], tmp_path: Path) -> None:
    options: dict[str, Any] = {"threat": fa.L2(0.5), "steps": 3, "seed": 1}
    model = Net().eval()
    first, again = (
        fa.data.construct.random_target(model, images(150), batch_size="auto", out_dir=tmp_path, **options)
        for _ in range(2)
    )
    assert sizes == [64]
    assert torch.equal(first.x, again.x)
    plain = fa.data.construct.random_target(model, images(150), **options)
    # a library may add up a batch of another size in another order, and each of the steps doubles that
    torch.testing.assert_close(first.x, plain.x, rtol=0, atol=2**5 * torch.finfo(torch.float32).eps)
    assert torch.equal(first.y, plain.y)
