"""keep_best_ and keep_nearest_ against plain loops, and their refusals."""

from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import seeds
from fastadv.ops.keep_best import keep_best_
from fastadv.ops.keep_nearest import keep_nearest_
from tests.refusals import refuses


def candidate(seed, dtype=torch.float32, rows=20):
    draw = torch.Generator().manual_seed(seed)
    loss = torch.randint(-2, 3, (rows,), generator=draw).float()
    loss = torch.where(torch.rand(rows, generator=draw) < 0.2, float("nan"), loss)
    return torch.rand(rows, 3, 2, 2, generator=draw).to(dtype), loss, torch.rand(rows, generator=draw) < 0.4


@pytest.mark.slow
@given(seeds, st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]), st.booleans())
def test_equals_a_loop(seed, dtype, strided):
    x, _, _ = candidate(seed, dtype)
    best = [x.clone(), torch.full((20,), float("-inf")), torch.zeros(20, dtype=torch.bool)]
    if strided:
        best = [
            x.contiguous(memory_format=torch.channels_last),
            torch.full((20, 2), float("-inf"))[:, 0],
            torch.zeros(20, 2, dtype=torch.bool)[:, 1],
        ]
    expected = [(x[row].clone(), float("-inf"), False) for row in range(20)]
    for turn in range(4):
        x_adv, loss, success = candidate(seed + 1 + turn, dtype)
        keep_best_(*best, x_adv, loss, success)
        for row, (_, old_loss, old_success) in enumerate(expected):
            if (bool(success[row]), float(loss[row])) > (old_success, old_loss) and not bool(
                loss[row].isnan()
            ):
                expected[row] = (x_adv[row], float(loss[row]), bool(success[row]))
    assert torch.equal(best[0], torch.stack([x for x, _, _ in expected]))
    assert best[1].tolist() == [loss for _, loss, _ in expected]
    assert best[2].tolist() == [success for _, _, success in expected]


def test_refusals():
    x, loss, success = candidate(0)
    refuses("x_adv: expected", keep_best_, x, loss, success, x[:, :2], loss, success)
    refuses("best_loss: expected", keep_best_, x, loss[:3], success, x, loss, success)
    refuses("loss: expected", keep_best_, x, loss, success, x, loss.double(), success)
    refuses("best_success: expected", keep_best_, x, loss, success.float(), x, loss, success)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("order", [0.0, 1.0, 2.0, inf])
def test_equals_a_loop_over_candidates(order, dtype):
    draw, rows, count = torch.Generator().manual_seed(3), 30, 4
    # few whole numbers: distances are exact, and many of them equal
    x, first = (torch.randint(0, 3, (rows, 2, 3), generator=draw).to(dtype) for _ in range(2))
    real = torch.float64 if dtype == torch.float64 else torch.float32
    best = first.clone(), torch.full((rows,), -inf, dtype=real), torch.zeros(rows, dtype=torch.bool)
    kept = [(-inf, first[row]) for row in range(rows)]
    for _ in range(5):
        points = torch.randint(0, 3, (rows, count, 2, 3), generator=draw).to(dtype)
        success = torch.rand(rows, count, generator=draw) < 0.3
        length = keep_nearest_(best, x, points, success, order)
        away = (points - x.unsqueeze(1)).flatten(2).double()
        expected = torch.linalg.vector_norm(away, order, dim=2).to(real)
        assert torch.equal(length, expected)
        for row, place in success.nonzero().tolist():
            if -float(expected[row, place]) > kept[row][0]:
                kept[row] = -float(expected[row, place]), points[row, place]
    assert torch.equal(best[1], torch.tensor([rank for rank, _ in kept], dtype=real))
    assert torch.equal(best[0], torch.stack([point for _, point in kept]))
    assert torch.equal(best[2], best[1] > -inf)


def test_refusals_of_the_nearest():
    x, points, success = torch.rand(3, 4), torch.rand(3, 2, 4), torch.ones(3, 2) > 0
    best = x.clone(), torch.zeros(3), torch.zeros(3, dtype=torch.bool)
    refuses("x: expected", keep_nearest_, best, x[:2], points, success, 2.0)
    refuses("points: expected", keep_nearest_, best, x, points[:, :1], success, 2.0)
    refuses("points: expected", keep_nearest_, best, x, points.double(), success, 2.0)
    refuses("success: expected", keep_nearest_, best, x, points, success.float(), 2.0)
    refuses("best_rank: expected", keep_nearest_, (x, best[1].double(), best[2]), x, points, success, 2.0)
