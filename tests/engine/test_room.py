"""Passes that do not fit into memory go in halves, with the same results and nothing done twice."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, room
from fastadv.engine.mapped import Mapped
from fastadv.engine.room import ran_out
from tests.engine.nets import Room
from tests.zoo.net import module

pytestmark = pytest.mark.usefixtures("search_copy")
ROOM = 6
TRIED: list[int] = []  # sizes of batches, by the last net and its copies


class Narrow(nn.Module):
    """A convolution with room for few rows, half as many with a gradient; what was tried is in TRIED."""

    def __init__(self, room: int = ROOM) -> None:
        super().__init__()
        self.layer, self.room = nn.Conv2d(3, 4, 2), room
        TRIED.clear()

    def forward(self, x: Tensor) -> Tensor:
        TRIED.append(len(x))
        if len(x) > (self.room // 2 if x.requires_grad else self.room):
            raise MemoryError
        return self.layer(x).flatten(1)


def problem(count: int = 23) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 2, 2, generator=draw), torch.randint(0, 4, (count,), generator=draw)


def test_a_clean_pass_that_does_not_fit_on_its_way_back_asks_again_about_its_rows_behind_a_map():
    """Of samples of which each has an image of its own."""
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), problem(9)
    narrow = module(lambda self, x: self.net(Room.apply(x)), net=model)
    shift = fa.Through(lambda x, t: x + t, fa.Linf(0.5, (-1.0, 1.0)), still=torch.zeros_like)
    ids, places, rows = torch.arange(9), torch.arange(9).flip(0)[:8], torch.tensor([5, 0, 3])
    t = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(1)) / 4
    asked, wide = (Mapped(Plain(net), shift, x, ids) for net in (narrow, model))
    answer = asked.clean_pass(t, places).gradient(rows, y[places][rows], "ce", None, True)
    expected = wide.input_gradient(t[rows], y[places][rows], "ce", None, True, places[rows])
    torch.testing.assert_close(answer, expected)


def test_what_fits_is_remembered_of_the_model(logged):
    model, (x, y) = Narrow(), problem()
    first = Plain(model)
    first.input_gradient(x, y)
    assert max(TRIED) == 23
    assert first.asked == (23, 23)
    assert "memory ran out with 23 samples of shape (3, 2, 2) at once; going on with 12" in logged.text
    for plain in (first, Plain(model)):
        TRIED.clear()
        for _ in range(3):
            plain.input_gradient(x, y)
        assert len(TRIED) == 3 * 8  # parts of 3 or 2, none tried in vain
        assert max(TRIED) == ROOM // 2
    # verdicts have room of their own
    TRIED.clear()
    plain.verdict(x[:ROOM])
    assert TRIED == [ROOM]
    model.room = 4  # less than before
    assert plain.verdict(x).shape == (23, 4)


def test_a_failed_pass_holds_no_memory_while_its_halves_run():
    alive = []

    class Held:
        def __del__(self):
            alive.remove(id(self))

    def run(x):
        held = Held()
        alive.append(id(held))
        if len(x) > 2:
            raise MemoryError
        assert len(alive) == 1, "the failed pass is still in memory"
        return x

    x = torch.rand(8, 2)
    assert torch.equal(fa.freeze(run).verdict(x), x)


def test_a_single_sample_that_does_not_fit_is_an_error():
    model, (x, y) = Narrow(room=1), problem(3)
    with pytest.raises(MemoryError):
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
    model = nn.Sequential(Narrow(), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(MemoryError):
        prepared(model).verdict(problem()[0])
    with pytest.raises(MemoryError):
        prepared(model).input_gradient(*problem())


def test_a_loss_of_the_callers_sees_the_whole_batch():
    model, (x, y) = Narrow(), problem()
    weight = torch.arange(23.0)
    with pytest.raises(MemoryError):
        fa.freeze(model).input_gradient(x, y, lambda logits, y, targets: logits.sum(1) * weight)


def test_a_part_of_a_search_copy_holds_what_is_fast(monkeypatch, one_thread):
    sizes, linear = list[int](), nn.functional.linear

    def counted(x, *rest):
        sizes.append(len(x))
        return linear(x, *rest)

    monkeypatch.setattr(nn.functional, "linear", counted)
    monkeypatch.setattr(room, "BYTES", 10 * 5 * 6 * 7 * 8)
    layers = (
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    model = fa.freeze(nn.Sequential(*layers, nn.Linear(5, 4)).double().eval())
    x = torch.rand(31, 2, 6, 7, dtype=torch.float64)
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
