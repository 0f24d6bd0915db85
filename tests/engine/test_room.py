"""Passes that do not fit into memory go in halves, with the same results and nothing done twice."""

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain
from fastadv.engine.mapped import Mapped
from fastadv.engine.room import ran_out

pytestmark = pytest.mark.usefixtures("search_copy")
ROOM, EYE = 6, torch.eye(4)
TRIED: list[int] = []  # sizes of batches, by the last net and its copies
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


class Narrow(nn.Module):
    """A convolution with room for few rows, half as many with a gradient; what was tried is in TRIED."""

    def __init__(self, room: int = ROOM, error: BaseException = ERRORS[0]) -> None:
        super().__init__()
        self.layer, self.room, self.error = nn.Conv2d(3, 4, 2), room, error
        TRIED.clear()

    def forward(self, x: Tensor) -> Tensor:
        TRIED.append(len(x))
        if len(x) > (self.room // 2 if x.requires_grad else self.room):
            raise self.error
        return self.layer(x).flatten(1)


class Apply(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return WayBack.apply(x)


def problem(count: int = 23) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 2, 2, generator=draw), torch.randint(0, 4, (count,), generator=draw)


@pytest.mark.parametrize("prepared", [fa.freeze, Plain])
@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu", "python"])
def test_parts_answer_as_the_whole_and_each_sample_counts_once(error, prepared, logged):
    model, (x, y) = Narrow(error=error), problem()
    frozen, wide = prepared(model), prepared(nn.Sequential(model.layer, nn.Flatten()))
    answers = [
        (
            asked.verdict(x),
            asked(x),
            *asked.input_gradient(x, y),
            *asked.input_gradient(x, y, targets=(y + 1) % 4),
        )
        for asked in (frozen, wide)
    ]
    torch.testing.assert_close(*answers)
    assert "memory ran out with 23 samples of shape (3, 2, 2) at once; going on with 12" in logged.text
    assert frozen.asked == wide.asked


# halves of the 16 rows that are compared, and of all
@pytest.mark.parametrize("prepared", [fa.freeze, Plain])
def test_several_gradients_of_a_pass_go_in_halves_too(prepared):
    """Directions that are chosen by the logits are chosen of the whole batch, as the caller's labels are."""
    model, (x, y) = Narrow(), problem()
    narrow, wide = prepared(model), prepared(nn.Sequential(model.layer, nn.Flatten()))

    def rivals(logits: Tensor) -> Tensor:
        return EYE[logits.scatter(1, y[:, None], -torch.inf).argmax(1)][:, None] - EYE[y][:, None]

    for directions in (rivals, EYE[y][:, None], rivals):
        torch.testing.assert_close(narrow.jacobian(x, directions), wide.jacobian(x, directions))
    assert narrow.asked[1] == wide.asked[1] == 3 * 23
    assert max(TRIED[-8:]) == 3


class WayBack(torch.autograd.Function):
    """The same, with room for few rows on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > ROOM:
            raise ERRORS[0]
        return gradient


def test_a_clean_pass_that_does_not_fit_on_its_way_back_asks_again_about_its_rows_behind_a_map():
    """Of samples of which each has an image of its own."""
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), problem(9)
    narrow = nn.Sequential(Apply(), *model)
    shifted = fa.Through(
        lambda x, t: x + t[:, :, None, None],
        fa.Linf(0.5, (-1.0, 1.0)),
        still=lambda x: x.new_zeros(len(x), 3),
    )
    ids, places, rows = torch.arange(9), torch.arange(9).flip(0)[:8], torch.tensor([5, 0, 3])
    t = torch.rand(8, 3, generator=torch.Generator().manual_seed(1)) / 4
    asked, wide = (Mapped(Plain(net), shifted, x, ids) for net in (narrow, model))
    answer = asked.clean_pass(t, places).gradient(rows, y[places][rows], "ce", None, True)
    expected = wide.input_gradient(t[rows], y[places][rows], "ce", None, True, places[rows])
    torch.testing.assert_close(answer, expected)


def test_what_fits_is_remembered_of_the_model():
    model, (x, y) = Narrow(), problem()
    first = Plain(model)
    first.input_gradient(x, y)
    assert max(TRIED) == 23
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
            raise torch.OutOfMemoryError("full")
        assert len(alive) == 1, "the failed pass is still in memory"
        return x

    x = torch.rand(8, 2)
    assert torch.equal(fa.freeze(run).verdict(x), x)


def test_a_single_sample_that_does_not_fit_is_an_error():
    model, (x, y) = Narrow(room=1), problem(3)
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
    model = nn.Sequential(Narrow(), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(torch.OutOfMemoryError):
        prepared(model).verdict(problem()[0])
    with pytest.raises(torch.OutOfMemoryError):
        prepared(model).input_gradient(*problem())


def test_a_loss_of_the_callers_sees_the_whole_batch():
    model, (x, y) = Narrow(), problem()
    weight = torch.arange(23.0)
    with pytest.raises(torch.OutOfMemoryError):
        fa.freeze(model).input_gradient(x, y, lambda logits, y, targets: logits.sum(1) * weight)
