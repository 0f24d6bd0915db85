"""Which sizes of parts are tried, what their times are kept by, and which is taken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fastadv.engine import choices, part_sizes, stopwatch
from fastadv.engine.architecture import digest
from fastadv.engine.chooser import Chooser
from fastadv.engine.part_sizes import PartSizes, compared, others


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of which nothing is known, on which nothing must repeat."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.use_deterministic_algorithms(False)
    choices._choices.cache_clear()
    yield
    choices._choices.cache_clear()


def test_no_part_is_larger_than_the_batch_or_smaller_than_allowed() -> None:
    assert others(16, 8, 64) == [32, 8, 64]
    assert others(16, 8, 63) == [32, 8]
    assert others(16, 9, 64) == [32, 64]
    assert others(16, 16, 31) == []


@pytest.mark.parametrize(
    ("ratios", "best"),
    [({}, 16), ({32: 0.9}, 32), ({32: 0.96}, 16), ({32: 0.9, 8: 0.8}, 8), ({32: 0.8, 64: 0.9}, 32)],
)
def test_the_size_that_gains_most_over_the_usual_is_taken(
    ratios: dict[int, float], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_sizes, "compared", lambda take, rows, *rest: (ratios.get(rows, 1.5), 1.0))
    assert PartSizes(nn.Identity()).fastest(Chooser(1.0), torch.rand(64, 3), 16, 8, len) == best


def test_sizes_are_timed_for_each_architecture_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def timed(take: object, rows: int, usual: int, most: float) -> tuple[float, float]:
        tried.append(rows)
        return 2.0, 1.0

    def times(model: nn.Module, *shape: int) -> list[int]:
        tried.clear()
        PartSizes(model).fastest(Chooser(1.0), torch.rand(shape), 16, 8, len)
        return list(tried)

    monkeypatch.setattr(part_sizes, "compared", timed)
    assert times(nn.Linear(4, 4), 64, 4) == [32, 8, 64]
    assert times(nn.Linear(4, 4), 32, 4) == []
    assert times(nn.Linear(4, 5), 64, 4) == [32, 8, 64]
    assert times(nn.Linear(4, 4), 64, 5) == [32, 8, 64]


def test_a_batch_of_another_length_has_a_size_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_sizes, "compared", lambda take, rows, *rest: (1.0 / rows, 1.0))
    sizes, x = PartSizes(nn.Identity()), torch.rand(64, 3)
    assert [sizes.repeats(part) for part in (x, x, x[1:], x[1:], x[:, 1:])] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert [sizes.fastest(Chooser(1.0), part, 16, 8, len) for part in (x, x[:40])] == [64, 32]


def test_the_first_time_of_a_part_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slow = [0.0], iter([0.0, 900.0, 0.0, 0.0, 0.0, 0.0])

    def take(part: slice) -> None:
        clock[0] += next(slow) + part.stop * (1.0 if part.stop == 8 else 0.5)

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
    assert compared(take, 16, 8, 9999.0) == (0.5, 1.0)


def test_a_digest_tells_architectures_apart() -> None:
    models = (
        nn.Linear(4, 4),
        nn.Linear(4, 5),
        nn.Linear(4, 4, bias=False),
        nn.Linear(4, 4).double(),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()),
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, eps=1.0),
        Scaled(3),
        Scaled(4),
    )
    names = [digest(model) for model in models]
    assert len(set(names)) == len(names)
    assert digest(nn.Linear(4, 4)) == names[0]


class Scaled(nn.Module):
    """A module whose description does not tell the size of its weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
