"""keep_best_ on a GPU: one program a row; rows that do not win are not touched (see ops/keep_best.py)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import common_layout, start_rows


@triton.jit
def keep_best_kernel(best_x, x_adv, cols, best_loss, best_success, loss, success, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    old_loss = tl.load(best_loss + row)
    new_loss = tl.load(loss + row)
    old = tl.load(best_success + row) != 0
    new = tl.load(success + row) != 0
    # every thread has read the old scores before one of them is written
    tl.debug_barrier()
    if (new_loss == new_loss) & ((new & (old == 0)) | ((new == old) & (new_loss > old_loss))):
        for first in range(0, cols, BLOCK):
            at = first + tl.arange(0, BLOCK)
            tl.store(
                best_x + row * cols + at, tl.load(x_adv + row * cols + at, mask=at < cols), mask=at < cols
            )
        tl.store(best_loss + row, new_loss)
        tl.store(best_success + row, (old | new).to(tl.uint8))


def launch(
    best_x: Tensor, best_loss: Tensor, best_success: Tensor, x_adv: Tensor, loss: Tensor, success: Tensor
) -> None:
    target, source = common_layout(best_x, x_adv)
    if target is not best_x:
        target.copy_(best_x)
    losses = best_loss.contiguous(), loss.contiguous()
    flags = best_success.contiguous(), success.contiguous()
    was, now = (flag.view(torch.uint8) for flag in flags)
    start_rows(keep_best_kernel, target, source, best_x[:1].numel(), losses[0], was, losses[1], now)
    if target is not best_x:
        best_x.copy_(target)
    # scores that were not contiguous were copied on the way in
    if not best_loss.is_contiguous():
        best_loss.copy_(losses[0])
    if not best_success.is_contiguous():
        best_success.copy_(flags[0])
