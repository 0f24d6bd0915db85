"""Which sizes of parts are tried, what their times are kept by, and which is taken."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import chooser, part_sizes, stopwatch
from fastadv.engine.architecture import digest
from fastadv.engine.chooser import Chooser
from fastadv.engine.part_sizes import PartSizes, compared, others

pytestmark = pytest.mark.usefixtures("unknown_machine")


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


def split_net() -> tuple[nn.Module, Tensor, Tensor]:
    """A batch of it passes in parts of 16."""
    torch.manual_seed(2)
    layers = (
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    return nn.Sequential(*layers).eval(), torch.rand(64, 1, 64, 64), torch.arange(64) % 5


@pytest.mark.parametrize("best", [8, 16, 32, 64])
def test_a_batch_passes_in_parts_of_the_size_that_is_fastest(
    best: int, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    model, x, y = split_net()
    tried: list[tuple[int, int]] = []

    def compared(take: Any, rows: int, usual: int, most: float) -> tuple[float, float]:
        assert len(take(slice(0, rows))[2]) == rows
        tried.append((rows, usual))
        return 1.0 + abs(rows - best), 1.0 + abs(usual - best)

    monkeypatch.setattr(part_sizes, "compared", compared)
    monkeypatch.setattr(chooser, "measured", lambda *args: None)
    plain = fa.freeze(model, tune=0)
    expected = plain.input_gradient(x, y)
    frozen = fa.freeze(model)
    sizes: list[int] = []
    real = frozen.search.forward
    monkeypatch.setattr(frozen.search, "forward", lambda x, *rest: [real(x, *rest), sizes.append(len(x))][0])
    frozen.input_gradient(x, y)
    assert tried == []  # not before the first pass has shown what works
    frozen.input_gradient(x, y)
    assert tried == [(32, 16), (8, 16), (64, 16)]
    sizes.clear()
    found = frozen.input_gradient(x, y)
    assert sizes == [best] * (64 // best)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert len(tried) == 3
    assert (frozen.forwards, frozen.backwards) == (plain.forwards + 128, plain.backwards + 128)


def test_a_batch_that_was_timed_passes_in_the_usual_parts_where_results_must_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(part_sizes, "compared", lambda *args: (1.0, 3.0))
    sizes, x = part_sizes.PartSizes(nn.Identity()), torch.rand(64, 3)

    def fastest() -> int:
        return sizes.fastest(Chooser(1.0), x, 16, 8, len)

    assert fastest() == 32
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert fastest() == 16
    torch.use_deterministic_algorithms(False)
    assert fastest() == 32


def test_sizes_are_timed_by_a_thread_that_may_compare_and_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else it waits for another that mends, and that one for the end of the times."""
    model, x, y = split_net()
    frozen = fa.freeze(model)
    free: list[bool] = []

    def compared(*args: Any) -> None:
        other = threading.Thread(target=lambda: free.append(frozen.search.lock.acquire(blocking=False)))
        other.start()
        other.join()

    monkeypatch.setattr(part_sizes, "compared", compared)
    monkeypatch.setattr(chooser, "measured", lambda *args: None)
    for _ in range(2):
        frozen.input_gradient(x, y)
    assert set(free) == {False}


class Noisy(nn.Module):
    """A randomized model; one with an int `gradient_probes` is taken to estimate its gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.01 * torch.rand_like(x))  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("probes", [False, True])
def test_times_of_parts_leave_no_trace(probes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def compared(take: Any, rows: int, usual: int, most: float) -> None:
        tried.append(len(take(slice(0, rows))[2]))

    monkeypatch.setattr(part_sizes, "compared", compared)
    model, x, y = split_net()
    noisy, drawn = Noisy(model).eval(), []
    if probes:
        noisy.gradient_probes = 0
    for tune in (0, 5):
        torch.manual_seed(0)
        frozen = fa.freeze(noisy, tune=tune)
        for _ in range(2):
            frozen.input_gradient(x, y)
        drawn.append(torch.get_rng_state())
    assert torch.equal(*drawn)
    assert bool(tried) != probes  # a probe would be counted


def test_parts_are_timed_within_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, taken = [0.0], []

    def take(part: slice) -> None:
        taken.append(part.stop)
        clock[0] += part.stop * (1.0 if part.stop == 8 else 0.5)

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
    assert part_sizes.compared(take, 16, 8, 1000.0) == (0.5, 1.0)
    assert taken == [8, 16] * part_sizes.TURNS
    taken.clear()
    assert part_sizes.compared(take, 16, 8, 20.0) is None
    assert taken == [8]
