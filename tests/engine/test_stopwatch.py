"""By what name a call is timed, and what is timed of it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastadv.engine import stopwatch
from fastadv.engine.stopwatch import described, measured


def test_calls_that_may_take_other_times_have_other_names() -> None:
    x, weight, bias = torch.rand(8, 3, 4, 4), torch.rand(5, 3, 1, 1), torch.rand(5)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x,), {}),
        ((x.to(memory_format=torch.channels_last),), {}),
        ((x.double(),), {}),
        ((x[..., 1:].contiguous(),), {}),
        ((torch.rand(33, 3, 4, 4),), {}),
        ((x.clone().requires_grad_(),), {}),
        ((x, weight), {}),
        ((x, weight[1:]), {}),
        ((x, weight, bias), {}),
        ((x, weight, bias, (1, 1)), {}),
        ((x, weight, bias, (2, 2)), {}),
        ((x, weight, bias, (1, 1), (1, 1)), {}),
        ((x,), {"alpha": 1.0}),
        ((x,), {"alpha": 2.0}),
    ]
    names = [described("way", torch.sin, *call) for call in calls]
    names += [described("other", torch.sin, (x,), {}), described("way", torch.cos, (x,), {})]
    assert None not in names
    assert len(set(names)) == len(names)


def test_large_batches_are_alike() -> None:
    names = {rows: described("way", torch.sin, (torch.rand(rows, 3),), {}) for rows in (32, 33, 64, 65, 999)}
    assert names[33] == names[64] == names[65] == names[999] != names[32]


def test_what_says_more_than_a_name_holds_is_not_timed() -> None:
    x = torch.rand(8, 3, 4, 4)
    for call in ((x.transpose(2, 3),), (x, [1, 1]), (x, (object(),)), (x, None, torch.sin), ()):
        assert described("way", torch.sin, call, {}) is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_the_way_comes_first_and_the_first_time_does_not_count(clock: list[float]) -> None:
    taken = {"way": iter([9.0, 1.0, 1.0, 1.0]), "plain": iter([2.0, 2.0, 2.0, 2.0])}

    def run(name: str) -> Any:
        def call(x: Tensor) -> Tensor:
            clock[0] += next(taken[name])
            return x

        return call

    assert measured(run("way"), run("plain"), (torch.rand(2, 3),), {}, 99.0) == (1.0, 2.0)


def test_the_gradient_is_timed_as_well(clock: list[float]) -> None:
    x, pulled = torch.rand(2, 3, requires_grad=True), list[Tensor]()

    def call(x: Tensor) -> Tensor:
        out = 2 * x
        out.register_hook(pulled.append)
        clock[0] += 1.0
        return out

    assert measured(call, call, (x,), {}, 99.0) == (1.0, 1.0)
    assert len(pulled) == 2 * stopwatch.LEAST_TURNS
    assert all(torch.equal(each, torch.ones(2, 3)) for each in pulled)


@pytest.mark.parametrize("named", [False, True])
def test_nothing_is_written_in_place(named: bool) -> None:
    x = -torch.ones(2, 3)
    given: Any = ((x,), {"inplace": True}) if named else ((x, True), {})
    assert measured(F.relu, F.relu, *given, 5.0) is not None
    assert (x == -1).all()


def test_a_way_that_declines_has_no_time() -> None:
    assert measured(lambda x: NotImplemented, torch.sin, (torch.rand(2, 3),), {}, 5.0) is None


class Seen(TorchFunctionMode):
    """The functions of torch that this thread calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_no_mode_around_sees_a_call_or_changes_it() -> None:
    inside: list[bool] = []

    def call(x: Tensor) -> Tensor:
        inside.append(torch.is_inference_mode_enabled())
        return x.sin()

    with Seen() as seen, torch.inference_mode():
        assert measured(call, call, (torch.rand(2, 3),), {}, 5.0) is not None
    assert "sin" not in seen.names
    assert set(inside) == {False}
