"""climb_ against the ops whose place it takes, and its refusals."""

from functools import partial

import pytest
import torch

from balls import assert_refused
from fastadv import ops
from fastadv.ops.climb import climb_
from fastadv.ops.keep_best import keep_best_


def state(rows, shape=(3, 2, 2), dtype=torch.float32):
    lowest, none = torch.full((rows,), -torch.inf), torch.zeros(rows, dtype=torch.bool)
    x = torch.zeros(rows, *shape, dtype=dtype)
    return (x, lowest, none), none.clone(), (x.clone(), lowest.clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kind", ["margin", "ce", "dlr"])
def test_equals_the_ops_that_it_stands_for(kind, targeted, dtype):
    draw, rows = torch.Generator().manual_seed(3), 40
    (best, not_finite, own), (other, marked, theirs) = state(rows, dtype=dtype), state(rows, dtype=dtype)
    y = torch.randint(5, (rows,), generator=draw)
    targets = (y + 1) % 5 if targeted else None
    for _ in range(6):
        x_adv = torch.rand(rows, 3, 2, 2, generator=draw).to(dtype)
        logits = torch.randint(-2, 3, (rows, 5), generator=draw).float()  # with ties
        logits[torch.rand(rows, generator=draw) < 0.1, 2] = torch.inf
        climb_(best, not_finite, own, x_adv, logits, y, kind, targets)
        loss = ops.logit_loss(logits, y, kind, targets)[0]
        finite, decided = logits.isfinite().all(1), logits.argmax(1)
        success = finite & (decided == targets if targeted else decided != y)
        marked |= ~finite
        keep_best_(*other, x_adv, loss, success)
        keep_best_(*theirs, torch.zeros_like(success), x_adv, loss, torch.zeros_like(success))
    for mine, expected in zip((*best, not_finite, *own), (*other, marked, *theirs[:2]), strict=True):
        assert torch.equal(mine, expected)
    assert marked.any()
    assert other[2].any()


def test_a_success_of_lower_loss_is_best_and_does_not_move_the_climb():
    """DLR of a point whose label leads by little may exceed that of one that is misclassified."""
    best, not_finite, own = state(1)
    y, targets = torch.tensor([0]), torch.tensor([1])
    climb_(best, not_finite, own, torch.ones(1, 3, 2, 2), torch.tensor([[1.0, 0.9, 9.0]]), y, "margin")
    climb_(best, not_finite, own, torch.full((1, 3, 2, 2), 2.0), torch.tensor([[0.0, 5.0, 1.0]]), y, "margin",
           targets)  # fmt: skip
    assert (best[0] == 1).all()  # 8 and 4, both successes
    assert (own[0] == 1).all()
    climb_(best, not_finite, own, torch.full((1, 3, 2, 2), 3.0), torch.tensor([[20.0, 5.0, 1.0]]), y, "cw")
    assert float(own[1]) == 8.0


def test_refusals():
    best, not_finite, own = state(3)
    x, logits, y = torch.rand(3, 3, 2, 2), torch.rand(3, 4), torch.tensor([0, 1, 2])
    call = partial(climb_, best, not_finite, own, x, logits)
    assert_refused(
        (lambda: call(y + 2, "margin"), "labels: expected classes in"),
        (lambda: call(y, "margin", y + 2), "targets: expected classes in"),
    )
