"""keep_best_ against a plain loop, and its refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balls import assert_refused, few, seeds
from fastadv.ops.keep_best import keep_best_


def candidate(seed, dtype=torch.float32, rows=20):
    draw = torch.Generator().manual_seed(seed)
    loss = torch.randint(-2, 3, (rows,), generator=draw).float()
    loss = torch.where(torch.rand(rows, generator=draw) < 0.2, float("nan"), loss)
    return torch.rand(rows, 3, 2, 2, generator=draw).to(dtype), loss, torch.rand(rows, generator=draw) < 0.4


@pytest.mark.slow
@few
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
    assert_refused(
        (lambda: keep_best_(x, loss, success, x[:, :2], loss, success), "x_adv: expected"),
        (lambda: keep_best_(x, loss[:3], success, x, loss, success), "best_loss: expected"),
        (lambda: keep_best_(x, loss.double(), success, x, loss.double(), success), "best_loss: expected"),
        (lambda: keep_best_(x, loss, success, x, loss.double(), success), "loss: expected"),
        (lambda: keep_best_(x, loss, success.float(), x, loss, success), "best_success: expected"),
        (lambda: keep_best_(x, loss, success, x, loss, success[:1]), "success: expected"),
        (lambda: keep_best_(x, loss, success, x, loss.to("meta"), success), "loss: expected"),
    )
