"""Bounds on ‖x − p‖² + bias by a matrix product in single precision.

They tell which tiles of prototypes can hold the nearest one of an image.

Any order of adding n products errs by at most γₙ = nu / (1 − nu) of their magnitudes, u = 2⁻²⁴, and 2|x·p| <=
‖x‖² + ‖p‖²: so ‖x‖² + ‖p‖² + bias − 2 x·p is off by less than γ of twice the columns, and some for the sums,
times ‖x‖² + ‖p‖² + |bias|.
"""

import triton
import triton.language as tl


def slack(cols: int) -> float:
    """Return what the product form of `cols` columns may be off by, as a part of its terms' magnitude."""
    error = (2 * cols + 32) * 2.0**-24
    return error / (1 - error) if error < 0.5 else float("inf")


@triton.jit
def bounds_kernel(
    low, high, x, prototypes, bias, images, count, cols, class_stride, bias_stride, slack,
    IMAGES: tl.constexpr, PROTOTYPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write low [K, B, tiles] <= all distances of a tile and high >= the least; infinite on overflow."""
    program = tl.program_id(0).to(tl.int64)
    image_tiles = tl.cdiv(images, IMAGES)
    tiles = tl.cdiv(count, PROTOTYPES)
    # images fastest: neighbors share the tile of prototypes
    i = (program % image_tiles) * IMAGES + tl.arange(0, IMAGES)
    tile = program // image_tiles % tiles
    k = program // image_tiles // tiles
    s = tile * PROTOTYPES + tl.arange(0, PROTOTYPES)

    product = tl.zeros((IMAGES, PROTOTYPES), tl.float32)
    x_square = tl.zeros((IMAGES,), tl.float32)
    p_square = tl.zeros((PROTOTYPES,), tl.float32)
    for first in range(0, cols, BLOCK):
        c = first + tl.arange(0, BLOCK)
        rows = tl.load(
            x + i[:, None] * cols + c[None, :], mask=(i < images)[:, None] & (c < cols)[None, :], other=0.0
        )
        place = k * class_stride + s[None, :] * cols + c[:, None]
        columns = tl.load(prototypes + place, mask=(s < count)[None, :] & (c < cols)[:, None], other=0.0)
        product = tl.dot(rows, columns, product, input_precision="ieee")
        x_square += tl.sum(rows * rows, 1)
        p_square += tl.sum(columns * columns, 0)

    offset = tl.load(bias + k * bias_stride + s, mask=s < count, other=0.0)
    squares = x_square[:, None] + p_square[None, :]
    value = squares + offset[None, :] - 2 * product
    margin = (squares + tl.abs(offset)[None, :]) * slack + 1e-37
    below = value - margin
    above = value + margin
    infinity = float("inf")
    # NaN compares false
    below = tl.where((s < count)[None, :], tl.where(below < infinity, below, -infinity), infinity)
    above = tl.where((s < count)[None, :] & (tl.abs(above) < infinity), above, infinity)
    at = (k * images + i) * tiles + tile
    tl.store(low + at, tl.min(below, 1), mask=i < images)
    tl.store(high + at, tl.min(above, 1), mask=i < images)
