"""nearest_prototype on a GPU: a matrix product leaves out tiles that cannot win, float64 measures the rest.

Any order of adding n products errs by at most γₙ = nu / (1 − nu) of their magnitudes, u = 2⁻²⁴, and 2|x·p| <=
‖x‖² + ‖p‖²: so ‖x‖² + ‖p‖² + bias − 2 x·p is off by less than γ of twice the columns, and some for the sums,
times ‖x‖² + ‖p‖² + |bias|.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import start

PROTOTYPES = 64
_NONE = tl.constexpr(2**31 - 1)


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


@triton.jit
def _distances(row, prototypes, bias, first, count, cols, PROTOTYPES: tl.constexpr, BLOCK: tl.constexpr):
    """Return (distance in float64, prototype) of those from `first` on; infinite where there is none."""
    s = first + tl.arange(0, PROTOTYPES)
    total = tl.zeros((PROTOTYPES, BLOCK), tl.float64)
    for block in range(0, cols, BLOCK):
        c = block + tl.arange(0, BLOCK)
        point = tl.load(
            prototypes + s.to(tl.int64)[:, None] * cols + c[None, :],
            mask=(s < count)[:, None] & (c < cols)[None, :],
            other=0.0,
        )
        value = tl.load(row + c, mask=c < cols, other=0.0)
        apart = tl.where((c < cols)[None, :], value.to(tl.float64)[None, :] - point.to(tl.float64), 0.0)
        total += apart * apart
    offset = tl.load(bias + s, mask=s < count, other=0.0)
    return tl.where(s < count, tl.sum(total, 1) + offset.to(tl.float64), float("inf")), s


@triton.jit
def nearest_prototype_kernel(
    distance, index, x, prototypes, bias, low, limit, images, classes, count, cols, class_stride, bias_stride,
    PROTOTYPES: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Run one program an image and class, over tiles in ascending order: a tie stays with the lower index."""
    program = tl.program_id(0).to(tl.int64)
    k = program // images
    i = program % images
    tiles = tl.cdiv(count, PROTOTYPES)
    most = tl.load(limit + program)
    best = tl.full((), float("inf"), tl.float64)
    which = tl.full((), 0, tl.int32)
    for group in range(0, tiles, TILES):
        at = group + tl.arange(0, TILES)
        below = tl.load(low + program * tiles + at, mask=at < tiles, other=0.0)
        open = (at < tiles) & (below <= most)
        tile = tl.min(tl.where(open, at, _NONE))
        while tile != _NONE:
            value, s = _distances(
                x + i * cols, prototypes + k * class_stride, bias + k * bias_stride,
                tile * PROTOTYPES, count, cols, PROTOTYPES, BLOCK,
            )  # fmt: skip
            broken = tl.max((value != value).to(tl.int32)) > 0
            least = tl.min(tl.where(value == value, value, float("inf")))
            lowest = tl.min(tl.where(tl.where(broken, value != value, value == least), s, _NONE))
            better = (broken | (least < best)) & (best == best)
            best = tl.where(better, tl.where(broken, float("nan"), least), best)
            which = tl.where(better, lowest, which)
            # after NaN no bound is below
            tile = tl.min(tl.where(open & (at > tile) & (below.to(tl.float64) <= best), at, _NONE))
    tl.store(distance + i * classes + k, best.to(tl.float32))
    tl.store(index + i * classes + k, which.to(tl.int64))


def launch(distance: Tensor, index: Tensor, x: Tensor, prototypes: Tensor, bias: Tensor) -> None:
    if distance.numel() == 0:
        return
    # a part of each class's bank is fine as it is
    bank = prototypes if prototypes[0].is_contiguous() else prototypes.contiguous()
    offset = bias if bias.stride(1) == 1 else bias.contiguous()
    x, (images, cols), (classes, count) = x.contiguous(), x.shape, bank.shape[:2]
    tiles = triton.cdiv(count, PROTOTYPES)
    low, high = (torch.empty(classes, images, tiles, dtype=torch.float32, device=x.device) for _ in range(2))
    rows = 64 if images > 16 else 16
    strides = bank.stride(0), offset.stride(0)
    start(
        bounds_kernel, classes * tiles * triton.cdiv(images, rows), low, high, x, bank, offset, images, count,
        cols, *strides, slack(cols),
        IMAGES=rows, PROTOTYPES=PROTOTYPES, BLOCK=16, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    start(
        nearest_prototype_kernel, classes * images, distance, index, x, bank, offset, low, high.amin(2),
        images, classes, count, cols, *strides, PROTOTYPES=PROTOTYPES, BLOCK=32, TILES=128, num_warps=8,
    )  # fmt: skip
