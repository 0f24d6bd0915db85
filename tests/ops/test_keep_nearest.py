"""keep_nearest_ against a plain loop, and its refusals."""

from math import inf

import pytest
import torch

from balls import assert_refused
from fastadv.ops.keep_nearest import keep_nearest_


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


def test_refusals():
    x, points, success = torch.rand(3, 4), torch.rand(3, 2, 4), torch.ones(3, 2) > 0
    best = x.clone(), torch.zeros(3), torch.zeros(3, dtype=torch.bool)
    assert_refused(
        (lambda: keep_nearest_(best, x[:2], points, success, 2.0), "x: expected"),
        (lambda: keep_nearest_(best, x, points[:, :1], success, 2.0), "points: expected"),
        (lambda: keep_nearest_(best, x, points[:, :, :3], success, 2.0), "points: expected"),
        (lambda: keep_nearest_(best, x, points.double(), success, 2.0), "points: expected"),
        (lambda: keep_nearest_(best, x, points, success.float(), 2.0), "success: expected"),
        (lambda: keep_nearest_(best, x, points, success[:2], 2.0), "success: expected"),
        (
            lambda: keep_nearest_((x, best[1].double(), best[2]), x, points, success, 2.0),
            "best_rank: expected",
        ),
    )
