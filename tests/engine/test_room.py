"""Passes that do not fit into memory go in halves, with the same results and nothing done twice."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain
from fastadv.engine.room import ran_out

ROOM = 6


class Narrow(nn.Module):
    """A linear model with room for few rows, half as many with a gradient; it remembers what was tried."""

    def __init__(self, error: BaseException, room: int = ROOM) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)
        self.error, self.room = error, room
        self.tried: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(len(x))
        if len(x) > (self.room // 2 if x.requires_grad else self.room):
            raise self.error
        return self.layer(x.flatten(1))


def problem(count: int = 23) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 2, 2, generator=draw), torch.randint(0, 4, (count,), generator=draw)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu", "python"])
def test_logits_and_gradients_are_those_of_the_whole(error, logged):
    model, (x, y) = Narrow(error), problem()
    frozen, wide = fa.freeze(model), nn.Sequential(nn.Flatten(), model.layer)
    expected = fa.freeze(wide)
    torch.testing.assert_close(frozen.verdict(x), expected.verdict(x))
    torch.testing.assert_close(frozen(x), expected(x))
    for targets in (None, (y + 1) % 4):
        for ours, theirs in zip(
            frozen.input_gradient(x, y, targets=targets),
            expected.input_gradient(x, y, targets=targets),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs)
    assert "memory ran out with 23 samples of shape (3, 2, 2) at once; going on with 12" in logged.text
    # every sample counts once, however often its pass was tried
    assert (frozen.forwards, frozen.backwards) == (expected.forwards, expected.backwards)


def test_what_fits_is_remembered_of_the_model():
    model, (x, y) = Narrow(ERRORS[0]), problem()
    first = fa.freeze(model)
    first.input_gradient(x, y)
    assert max(first.model.tried) == 23
    for frozen in (first, fa.freeze(model)):
        frozen.model.tried.clear()
        for _ in range(3):
            frozen.input_gradient(x, y)
        assert len(frozen.model.tried) == 3 * 8  # parts of 3 or 2, none tried in vain
        assert max(frozen.model.tried) == ROOM // 2
    # verdicts have room of their own
    frozen.model.tried.clear()
    frozen.verdict(x[:ROOM])
    assert frozen.model.tried == [ROOM]
    frozen.model.room = 4  # less than before
    assert frozen.verdict(x).shape == (23, 4)


def test_a_failed_pass_holds_no_memory_while_its_halves_run():
    alive = []

    class Held:
        def __del__(self):
            alive.remove(id(self))

    def run(x):
        held = Held()
        alive.append(id(held))
        if len(x) > 2:
            raise torch.OutOfMemoryError("full")
        assert len(alive) == 1, "the failed pass is still in memory"
        return x

    x = torch.rand(8, 2)
    assert torch.equal(fa.freeze(run).verdict(x), x)


def test_a_single_sample_that_does_not_fit_is_an_error():
    model, (x, y) = Narrow(ERRORS[0], room=1), problem(3)
    with pytest.raises(torch.OutOfMemoryError):
        fa.freeze(model).input_gradient(x, y)


def test_other_errors_are_not_tried_again():
    calls = []

    def model(x):
        calls.append(len(x))
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fa.freeze(model).verdict(problem()[0])
    assert calls == [23]
    assert not ran_out(RuntimeError("shapes"))


@pytest.mark.parametrize("prepared", [fa.freeze, Plain])
def test_samples_that_share_statistics_are_not_parted(prepared):
    """A BatchNorm without running statistics takes those of the batch: parts would see others."""
    model = nn.Sequential(Narrow(ERRORS[0]), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(torch.OutOfMemoryError):
        prepared(model).verdict(problem()[0])
    with pytest.raises(torch.OutOfMemoryError):
        prepared(model).input_gradient(*problem())


def test_a_loss_of_the_callers_sees_the_whole_batch():
    model, (x, y) = Narrow(ERRORS[0]), problem()
    weight = torch.arange(23.0)
    with pytest.raises(torch.OutOfMemoryError):
        fa.freeze(model).input_gradient(x, y, lambda logits, y, targets: logits.sum(1) * weight)
