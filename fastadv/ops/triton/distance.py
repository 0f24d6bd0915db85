"""distance on a GPU: one program a row, sums in float64 (see ops/distance.py)."""

from math import inf

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import edge, in_one_layout, load, start_rows

KINDS = {inf: "largest", 2.0: "squares", 1.0: "sizes", 0.0: "count"}


@triton.jit
def distance_kernel(
    out, kept, x_adv, x, cols, order: tl.float64, lo: tl.float64, hi: tl.float64, KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = x_adv.dtype.element_ty
    low = edge(lo, dtype)
    high = edge(hi, dtype)
    power = tl.full((), order, tl.float64)
    total = tl.zeros((BLOCK,), tl.float64)
    outside = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, cols, BLOCK):
        at = first + tl.arange(0, BLOCK)
        mask = at < cols
        value = load(x_adv + row * cols, at, mask)
        away = tl.abs(value.to(tl.float64) - load(x + row * cols, at, mask).to(tl.float64))
        inside = (value >= low) & (value <= high)  # neither holds for NaN
        if KIND == "largest":
            total = tl.where((away > total) | (away != away), away, total)
        elif KIND == "squares":
            total += away * away
        elif KIND == "sizes":
            total += away
        elif KIND == "count":
            total += tl.where(away != 0, 1.0, 0.0)
        else:
            total += tl.where(away == 0, 0.0, tl.exp(tl.log(away) * power))
        outside += (mask & (inside == 0)).to(tl.int32)
    whole = tl.sum(total)
    length = tl.where(whole == whole, tl.max(total), whole) if KIND == "largest" else whole
    if KIND == "squares":
        length = tl.sqrt(length)
    elif KIND == "power":
        length = tl.where(length == 0, 0.0, tl.exp(tl.log(length) / power))
    tl.store(out + row, length)
    tl.store(kept + row, (tl.sum(outside) == 0).to(tl.uint8))


def launch(out: Tensor, inside: Tensor, x_adv: Tensor, x: Tensor, order: float, lo: float, hi: float) -> None:
    points, center = in_one_layout(x_adv, x)
    arguments = points, center, points[:1].numel(), order, lo, hi, KINDS.get(order, "power")
    start_rows(distance_kernel, out, inside.view(torch.uint8), *arguments)
