"""judge_ against the ops whose place it takes, and its refusals."""

from functools import partial

import pytest
import torch

from fastadv import ops
from fastadv.ops._rows import per_row
from fastadv.ops.keep_best import keep_best_
from tests.refusals import refuses


def state(rows, shape=(3, 2, 2)):
    lowest, none = torch.full((rows,), -torch.inf), torch.zeros(rows, dtype=torch.bool)
    ranks = torch.full((rows, 5), torch.nan)
    ranks[:, 0] = 0
    return (torch.zeros(rows, *shape), lowest, none), none.clone(), lowest.clone(), ranks


def judge_(best, *rest, move=(), stop=False):
    """Judge as the op does, and return which rows are successes; move is (x, radius, step size, box)."""
    marks, given = rest[:3], [*rest[3:], None, False][:7]
    if move:
        (radius, radii), (step_size, steps) = (per_row("radius", each, move[0]) for each in move[1:3])
        move = move[0], radius, step_size, *move[3], radii, steps
    success = torch.empty_like(best[2])
    torch.ops.fastadv.judge_(*best, *marks, success, *given, stop, *move)
    return success


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
        other[2][finite] = torch.maximum(other[2], ops.largest(grad).float())[finite]
        passed.append(other[0][1].clone())
        expected = ops.linf_step(x_adv, grad, x, radius, 0.1)
        met = judge_(
            *mine, x_adv, grad, logits, loss, y, targets, not targeted, move=(x, radius, 0.1, (0.0, 1.0))
        )
        assert torch.equal(met, success)
        assert torch.equal(x_adv, expected)
        judge_(*state(rows), kept := x_adv.clone(), grad, logits, loss, y, targets, not targeted)
        assert torch.equal(kept, x_adv)
    for given, wanted in zip((*mine[0], *mine[1:3]), (*other[0], *other[1:3]), strict=True):
        torch.testing.assert_close(given, wanted, rtol=0, atol=0, equal_nan=True)
    count = torch.full((rows,), 6.0)
    assert torch.equal(mine[3], torch.stack([count, passed[0], *passed[-3:]], dim=1))
    done, noted = mine[0][2].clone(), mine[3].clone()
    assert torch.equal(judge_(*mine, x_adv, None, logits, loss, y, targets), success)  # nothing of a gradient
    torch.testing.assert_close(mine[3], noted, rtol=0, atol=0, equal_nan=True)
    assert judge_(*mine, x_adv, grad, logits, loss, y, stop=True)[done].all()
    assert torch.equal(mine[3][:, 0], 7 - done.float())
    assert other[1].any()
    assert other[0][2].any()
    assert other[2].isnan().any()


def test_refusals():
    x, logits, loss, y = torch.rand(3, 3, 2, 2), torch.rand(3, 4), torch.rand(3), torch.tensor([0, 1, 2])
    call = partial(judge_, *state(3), x, x, logits, loss)
    refuses("labels: expected classes in", call, y + 2)
    refuses("targets: expected classes in", call, y, y + 2)
