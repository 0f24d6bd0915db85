"""count_votes_ on a GPU (see ops/count_votes.py): one program a row, one atomic addition."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import load, start


@triton.jit
def count_votes_kernel(votes, logits, rows, classes, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < classes
    value = load(logits + row * classes, at, mask)
    odd = mask & ((value != value) | (tl.abs(value) == float("inf")))
    value = tl.where(mask, value, float("-inf"))
    most = tl.max(tl.where(value == value, value, float("-inf")), 0)
    best = tl.min(tl.where(mask & (value == most), at, BLOCK), 0)
    if (tl.sum(odd.to(tl.int32), 0) == 0) & (best < BLOCK):
        tl.atomic_add(votes + tl.load(rows + row) * classes + best, 1)


def launch(logits: Tensor, rows: Tensor, votes: Tensor) -> None:
    classes = logits.shape[1]
    block = triton.next_power_of_2(max(classes, 1))
    start(
        count_votes_kernel, len(logits), votes, logits.contiguous(), rows.contiguous(), classes, BLOCK=block
    )
