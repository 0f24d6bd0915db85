"""judge_ against the ops whose place it takes, and its refusals."""

from functools import partial

import pytest
import torch

from balls import assert_refused
from fastadv import ops
from fastadv.ops.judge import judge_
from fastadv.ops.keep_best import keep_best_


def state(rows, shape=(3, 2, 2)):
    lowest, none = torch.full((rows,), -torch.inf), torch.zeros(rows, dtype=torch.bool)
    ranks = torch.full((rows, 5), torch.nan)
    ranks[:, 0] = 0
    return (torch.zeros(rows, *shape), lowest, none), none.clone(), lowest.clone(), ranks


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("targeted", "narrow"), [(False, False), (False, True), (True, False)])
def test_equals_the_ops_that_it_stands_for(targeted, narrow, last):
    draw, rows = torch.Generator().manual_seed(3), 40
    order = torch.channels_last if last else torch.contiguous_format
    mine, other = state(rows), state(rows)
    x, x_adv = (torch.rand(rows, 3, 2, 2, generator=draw).to(memory_format=order) for _ in range(2))
    y, radius = torch.randint(5, (rows,), generator=draw), torch.rand(rows, generator=draw)
    targets = (y + 1) % 5 if targeted else None
    passed = []
    for _ in range(6):
        grad = torch.randn(rows, 3, 2, 2, generator=draw)
        grad[torch.rand(rows, generator=draw) < 0.1, 1, 0, 1] = torch.nan
        grad = grad.bfloat16() if narrow else grad
        logits = 100 * torch.randint(-2, 3, (rows, 5), generator=draw).float()  # with ties, and a loss of 0
        logits[torch.rand(rows, generator=draw) < 0.1, 2] = torch.inf
        loss = ops.logit_loss(logits, y, "ce", targets)[0]
        own, z = logits.gather(1, y[:, None])[:, 0], logits.scatter(1, y[:, None], -torch.inf)
        rank = loss if targeted else torch.where(loss > 0, loss, z.amax(1) - own)
        finite, decided = logits.isfinite().all(1), logits.argmax(1)
        success = finite & (decided == targets if targeted else decided != y)
        keep_best_(*other[0], x_adv, torch.where(finite, rank, torch.nan), success)
        other[1].logical_or_(~finite)
        other[2].copy_(torch.maximum(other[2], ops.largest(grad).float()))
        passed.append(other[0][1].clone())
        expected = ops.linf_step(x_adv, grad, x, radius, 0.1)
        met = judge_(*mine, x_adv, grad, logits, loss, y, targets, not targeted, (x, radius, 0.1, (0.0, 1.0)))
        assert torch.equal(met, success)
        assert torch.equal(x_adv, expected)
        judge_(*state(rows), kept := x_adv.clone(), grad, logits, loss, y, targets, not targeted)
        assert torch.equal(kept, x_adv)
    for given, wanted in zip((*mine[0], *mine[1:3]), (*other[0], *other[1:3]), strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=0, equal_nan=True)
    count = torch.full((rows,), 6.0)
    assert torch.equal(mine[3], torch.stack([count, passed[0], *passed[-3:]], dim=1))
    assert other[1].any()
    assert other[0][2].any()
    assert other[2].isnan().any()


def test_refusals():
    x, logits, loss, y = torch.rand(3, 3, 2, 2), torch.rand(3, 4), torch.rand(3), torch.tensor([0, 1, 2])
    call = partial(judge_, *state(3), x, x, logits, loss)
    assert_refused(
        (lambda: call(y + 2), "labels: expected classes in"),
        (lambda: call(y, y + 2), "targets: expected classes in"),
        (lambda: call(y, move=(x, -0.1, 0.1, (0.0, 1.0))), "radius: expected"),
        (lambda: call(y, move=(x, 0.1, -0.1, (0.0, 1.0))), "step_size: expected"),
    )


def test_a_move_in_channels_last():
    draw, moved = torch.Generator().manual_seed(0), []
    points, grad, x = (torch.rand(2, 3, 4, 5, generator=draw) for _ in range(3))
    best, *rest = state(2)
    y, logits, loss = torch.tensor([0, 1]), torch.rand(2, 4), torch.rand(2)
    for order in (torch.contiguous_format, torch.channels_last):
        best_x, x_adv, along, center = (each.clone(memory_format=order) for each in (x, points, grad, x))
        mine = (best_x, *(each.clone() for each in best[1:]))
        own = [each.clone() for each in rest]
        judge_(mine, *own, x_adv, along, logits, loss, y, move=(center, 0.3, 0.1, (0.0, 1.0)))
        moved.append((x_adv, best_x))
    assert all(torch.equal(one, other) for one, other in zip(*moved, strict=True))
    assert not torch.equal(moved[0][0], points)
