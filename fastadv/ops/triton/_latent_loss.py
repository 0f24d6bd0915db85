"""The loss of latents on a GPU: one program an image and class."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import start


@triton.jit(do_not_specialize=["images"])
def loss_kernel(
    loss, decoded, x, z, images, classes, size, latents, beta, BLOCK: tl.constexpr, LATENTS: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    k = program // images
    image = program % images
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        apart = tl.load(decoded + program * size + at, mask=at < size, other=0.0) - tl.load(
            x + image * size + at, mask=at < size, other=0.0
        )
        total += apart * apart
    at = tl.arange(0, LATENTS)
    value = tl.load(z + program * latents + at, mask=at < latents, other=0.0)
    tl.store(loss + image * classes + k, (tl.sum(total) + beta / 2 * tl.sum(value * value)) / size)


def loss_of(loss: Tensor, decoded: Tensor, x: Tensor, z: Tensor, beta: float) -> None:
    """Write loss [B, K] = (‖decoded − x‖² + β/2 ‖z‖²) / D; [K, B, C, h, h], [B, C, h, h], [K, B, L] dense."""
    classes, images, latents = z.shape
    start(
        loss_kernel, classes * images, loss, decoded, x, z, images, classes, x[0].numel(), latents, beta,
        BLOCK=256, LATENTS=triton.next_power_of_2(latents), num_warps=2,
    )  # fmt: skip
