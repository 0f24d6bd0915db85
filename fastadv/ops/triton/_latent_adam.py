"""Adam on latents and the clip of their norm on a GPU: several rows of latents a program."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import start

BETA1, BETA2 = 0.9, 0.999
_EPSILON = tl.constexpr(1e-8)


@triton.jit(do_not_specialize=["rows"])
def adam_kernel(
    z, mean, square, grad, rows, latents, size, beta, step_size, max_norm,
    keep_mean, add_mean, keep_square, add_square, fix_mean, fix_square,
    ROWS: tl.constexpr, LATENTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, LATENTS)
    at = row[:, None] * latents + column[None, :]
    mask = (row < rows)[:, None] & (column < latents)[None, :]
    point = tl.load(z + at, mask=mask, other=0.0)
    gradient = (tl.load(grad + at, mask=mask, other=0.0) + beta * point) / size
    first = keep_mean * tl.load(mean + at, mask=mask, other=0.0) + add_mean * gradient
    second = keep_square * tl.load(square + at, mask=mask, other=0.0) + add_square * gradient * gradient
    point -= step_size * (first / fix_mean) / (tl.sqrt_rn(second / fix_square) + _EPSILON)
    norm = tl.sqrt_rn(tl.sum(tl.where(mask, point * point, 0.0), 1))[:, None]
    tl.store(z + at, tl.where(norm > max_norm, point * (max_norm / norm), point), mask=mask)
    tl.store(mean + at, first, mask=mask)
    tl.store(square + at, second, mask=mask)


def adam(
    z: Tensor, mean: Tensor, square: Tensor, grad: Tensor, size: int,
    beta: float, step: int, step_size: float, max_norm: float,
) -> None:  # fmt: skip
    """Update z, mean and square [..., L] by the gradient (grad + βz) / size at `step` >= 1; clip norms."""
    latents = z.shape[-1]
    block = triton.next_power_of_2(latents)
    rows = max(1, 256 // block)
    count = z.numel() // latents
    start(
        adam_kernel, triton.cdiv(count, rows), z, mean, square, grad, count, latents, size, beta, step_size,
        max_norm, BETA1, 1 - BETA1, BETA2, 1 - BETA2, 1 - BETA1**step, 1 - BETA2**step,
        ROWS=rows, LATENTS=block, num_warps=2,
    )  # fmt: skip
