"""The gradient of a decoder's layer on a GPU: a strided correlation, times the slope of the ELU below."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import load, rounded, start, store
from fastadv.ops.triton._latent import Layer, blocks, gathered_product


@triton.jit(do_not_specialize=["images"])
def down_kernel(
    out, source, hidden, weights, images, side, out_side, channels, width, kernel, stride,
    BF16: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Run one program for each class, tile of input pixels (of all images) and tile of input channels."""
    program = tl.program_id(0).to(tl.int64)
    pixels = side * side
    column_tiles = tl.cdiv(channels, COLUMNS)
    row_tiles = tl.cdiv(images * pixels, ROWS)
    column = (program % column_tiles).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_tiles
    row = (program % row_tiles).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    k = program // row_tiles

    # 64 bits to the tile's first image, 32 from there on
    first = k * images + (program % row_tiles) * ROWS // pixels
    ahead = row // pixels - ((program % row_tiles) * ROWS // pixels).to(tl.int32)
    rows = row < images * pixels
    value = gathered_product(
        source + first * out_side * out_side * width,
        weights + k * kernel * kernel * channels * width,
        (ahead * out_side * out_side * width, row % pixels // side * stride, row % side * stride, rows),
        (out_side, width),
        (0, 0, 1, kernel, kernel, kernel),
        (channels * width, 1, width),
        column, channels, True, BF16, ROWS, COLUMNS, BLOCK, WHOLE,
    )  # fmt: skip
    mask = rows[:, None] & (column < channels)[None, :]
    at = ((ahead * pixels + row % pixels) * channels)[:, None] + column[None, :]
    if hidden is not None:
        # ELU's derivative, from its value
        below = load(hidden + first * pixels * channels, at, mask)
        value = value * tl.where(below >= 0, 1.0, below + 1)
    store(out + first * pixels * channels, at, rounded(value, out.dtype.element_ty), mask)


def down(
    out: Tensor, source: Tensor, hidden: Tensor | None, weight: Tensor, layer: Layer, bf16: bool
) -> None:
    """Write the gradient of the layer's input [K, B, side, side, cin]; of `hidden`, through its ELU."""
    classes, images = source.shape[:2]
    tile = blocks(layer.width, layer.channels, layer.side == 1, bf16)
    programs = (
        classes * triton.cdiv(images * layer.side**2, tile.ROWS) * triton.cdiv(layer.channels, tile.COLUMNS)
    )
    start(
        down_kernel, programs, out, source, hidden, weight, images, *layer,
        BF16=bf16, num_warps=4, enable_fp_fusion=True, **tile._asdict(),
    )  # fmt: skip
