"""A layer of the decoders on a GPU: transposed convolution, bias and what follows."""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import rounded, start, store
from fastadv.ops.triton._latent import Layer, blocks, gathered_product


@triton.jit
def _elu(value):
    return tl.where(value > 0, value, tl.exp(tl.where(value > 0, 0.0, value)) - 1)


@triton.jit(do_not_specialize=["images"])
def up_kernel(
    out, source, weights, bias, x, images, side, out_side, channels, width, kernel, stride,
    class_stride, pixel_stride, channel_stride, KIND: tl.constexpr, BF16: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Run a program for each class, place modulo the stride, tile of all pixels and tile of channels."""
    program = tl.program_id(0).to(tl.int64)
    span = tl.cdiv(out_side, stride)
    pixels = span * span
    column_tiles = tl.cdiv(width, COLUMNS)
    row_tiles = tl.cdiv(images * pixels, ROWS)
    column = (program % column_tiles).to(tl.int32) * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_tiles
    # the places of one region together: they read the same inputs
    shift = (program % (stride * stride)).to(tl.int32)
    program = program // (stride * stride)
    row = (program % row_tiles).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    k = program // row_tiles

    # 64 bits to the tile's first image, 32 from there on
    first = ((program % row_tiles) * ROWS // pixels).to(tl.int64)
    image = row // pixels
    ahead = image - first.to(tl.int32)
    y = row % pixels // span
    x_ = row % pixels % span
    shift_y = shift // stride
    shift_x = shift % stride
    out_y = y * stride + shift_y
    out_x = x_ * stride + shift_x
    rows = (image < images) & (out_y < out_side) & (out_x < out_side)
    count_y = (kernel - shift_y + stride - 1) // stride
    count_x = (kernel - shift_x + stride - 1) // stride
    value = gathered_product(
        source + (k * images + first) * side * side * channels,
        weights + k * kernel * kernel * channels * width,
        (ahead * side * side * channels, y, x_, rows),
        (side, channels),
        (shift_y, shift_x, stride, count_y, count_x, kernel),
        (channels * width, width, 1),
        column, width, False, BF16, ROWS, COLUMNS, BLOCK, WHOLE,
    )  # fmt: skip
    value += tl.load(bias + k * width + column, mask=column < width, other=0.0)[None, :]
    mask = rows[:, None] & (column < width)[None, :]
    pixel = out_y * out_side + out_x
    size = out_side * out_side * width
    value = _elu(value) if KIND == "elu" else 1 / (1 + tl.exp(-value))
    if KIND == "gradient":
        # of the squared distance to x [B, C, H, H], by what goes into the sigmoid
        own = (ahead * size + pixel)[:, None] + column[None, :] * out_side * out_side
        value = 2 * (value - tl.load(x + first * size + own, mask=mask, other=0.0)) * value * (1 - value)
    at = (ahead * size + pixel * pixel_stride)[:, None] + column[None, :] * channel_stride
    store(out + k * class_stride + first * size, at, rounded(value, out.dtype.element_ty), mask)


def up(
    out: Tensor, source: Tensor, weight: Tensor, bias: Tensor, layer: Layer, kind: str, bf16: bool,
    x: Tensor | None = None,
) -> None:  # fmt: skip
    """Write one layer's output for source [K, B, side, side, cin] and weight [K, k, k, cin, cout].

    "elu" gives [K, B, h, h, cout], "sigmoid" images [K, B, C, h, h], and "gradient" [K, B, h, h, C] that of
    ‖image − x‖² with respect to what the sigmoid takes.
    """
    classes, images = out.shape[:2]
    tile = blocks(layer.channels, layer.width, False, bf16)
    span = triton.cdiv(layer.out_side, layer.stride)
    tiles = triton.cdiv(images * span * span, tile.ROWS) * triton.cdiv(layer.width, tile.COLUMNS)
    strides = (1, layer.out_side**2) if kind == "sigmoid" else (layer.width, 1)
    start(
        up_kernel, classes * layer.stride**2 * tiles, out, source, weight, bias, x, images, *layer,
        out.stride(0), *strides,
        KIND=kind, BF16=bf16, num_warps=4, enable_fp_fusion=True, **tile._asdict(),
    )  # fmt: skip
