"""judge_ on a GPU: one program a row (see ops/judge.py)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import (
    edge,
    in_one_layout,
    load,
    per_row,
    rows64,
    start_rows,
    store,
    towards_zero,
)
from fastadv.ops.triton.linf_step import step


@triton.jit
def _verdict(row, classes, label, BLOCK: tl.constexpr):
    """Return whether all logits are finite, the first of the largest, and the margin to the label."""
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    rival = tl.full((BLOCK,), float("-inf"), tl.float32)
    index = tl.full((BLOCK,), 2**31 - 1, tl.int32)
    broken = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, classes, BLOCK):
        at = first + tl.arange(0, BLOCK)
        mask = at < classes
        z = load(row, at, mask)
        broken |= (mask & ((z - z) != 0)).to(tl.int32)
        larger = mask & (z > top)
        top = tl.where(larger, z, top)
        index = tl.where(larger, at, index)
        rival = tl.where(mask & (at != label) & (z > rival), z, rival)
    finite = tl.max(broken) == 0
    decision = tl.min(tl.where(top == tl.max(top), index, 2**31 - 1))
    return finite, decision, tl.max(rival) - tl.load(row + label)


@triton.jit
def judge_kernel(
    best_x, x_adv, grad, cols, x, best_rank, best_success, not_finite, steepest, ranks, success, logits,
    classes, loss, labels, targets, noted, radius: tl.float64, step_size: tl.float64, lo: tl.float64,
    hi: tl.float64, radius_rows, step_size_rows, MARGIN: tl.constexpr, STOP: tl.constexpr,
    NOTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    was = tl.load(best_success + number) != 0
    if STOP and was:
        tl.store(success + number, tl.full((), 1, tl.uint8))
        return
    label = tl.load(labels + number)
    valid = (label >= 0) & (label < classes)
    finite, decision, margin = _verdict(logits + number * classes, classes, tl.where(valid, label, 0), BLOCK)
    met = decision != label
    if targets is not None:
        met = decision == tl.load(targets + number)
    met = met & finite & valid
    rank = tl.load(loss + number)
    if MARGIN:
        rank = tl.where(rank > 0, rank, margin)
    rank = tl.where(finite & valid, rank, float("nan"))
    rank = tl.where(met & (rank != rank), float("-inf"), rank)
    old = tl.load(best_rank + number)
    wins = (rank == rank) & ((met & (was == 0)) | ((met == was) & (rank > old)))
    old_most = tl.load(steepest + number)
    place = tl.arange(0, NOTED)
    past = tl.load(ranks + number * noted + place, mask=place < noted, other=0.0)
    shifted = tl.load(ranks + number * noted + place + 1, mask=place + 1 < noted, other=0.0)
    # every thread has read the old scores before one of them is written
    tl.debug_barrier()
    now = tl.where(wins, rank, old)
    tl.store(success + number, met.to(tl.uint8))
    if finite == 0:
        tl.store(not_finite + number, tl.full((), 1, tl.uint8))
    tl.store(best_rank + number, now)
    tl.store(best_success + number, (was | (wins & met)).to(tl.uint8))
    if grad is not None:
        kept = tl.where(place == 0, past + 1, tl.where(past == past, past, now))
        kept = tl.where(place < 2, kept, tl.where(place == noted - 1, now, shifted))
        tl.store(ranks + number * noted + place, kept, mask=place < noted)

    limit = towards_zero(per_row(radius, radius_rows, number)).to(tl.float64)
    length = per_row(step_size, step_size_rows, number).to(tl.float32)
    low = edge(lo, tl.float32)
    high = edge(hi, tl.float32)
    most = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, cols, BLOCK):
        column = first + tl.arange(0, BLOCK)
        mask = column < cols
        at = number * cols + column
        point = load(x_adv, at, mask)
        if grad is not None:
            along = load(grad, at, mask)
            # the order of the bits without the sign, NaN comes last
            most = tl.maximum(most, along.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
        if wins:
            store(best_x, at, point, mask)
        if x is not None:
            center = load(x, at, mask)
            store(x_adv, at, step(point, along, center, limit, length, low, high, tl.float32), mask)
    if grad is not None:
        size = tl.max(most).to(tl.float32, bitcast=True)
        larger = finite & ((size != size) | (size > old_most))
        tl.store(steepest + number, tl.where(larger, size, old_most))


def launch(
    best_x: Tensor, best_rank: Tensor, best_success: Tensor, not_finite: Tensor, steepest: Tensor,
    ranks: Tensor, success: Tensor, x_adv: Tensor, grad: Tensor | None, logits: Tensor, loss: Tensor,
    y: Tensor, targets: Tensor | None = None, margin_at_zero: bool = False, stop: bool = False,
    x: Tensor | None = None, radius: float = 0.0, step_size: float = 0.0, lo: float = 0.0, hi: float = 0.0,
    radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> None:  # fmt: skip
    optional = [tensor for tensor in (grad, x) if tensor is not None]
    best, points, *others = in_one_layout(best_x, x_adv, *optional)
    along, center = None if grad is None else others[0], None if x is None else others[-1]
    written = best_rank, best_success, not_finite, steepest, ranks, success
    values = tuple(value.contiguous() for value in written)
    rank, kept, marked, most, past, met = (
        value.view(torch.uint8) if value.dtype == torch.bool else value for value in values
    )
    aims = None if targets is None else targets.contiguous()
    start_rows(
        judge_kernel, best, points, along, best_x[:1].numel(), center, rank, kept, marked, most, past, met,
        logits.contiguous(), logits.shape[1], loss.contiguous(), y.contiguous(), aims, ranks.shape[1], radius,
        step_size, lo, hi, rows64(radius_rows), rows64(step_size_rows), margin_at_zero, stop,
        triton.next_power_of_2(ranks.shape[1]),
    )  # fmt: skip
    for target, result in zip((best_x, x_adv, *written), (best, points, *values), strict=True):
        if result is not target:
            target.copy_(result)
