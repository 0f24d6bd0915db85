"""A layer of the decoders and its gradient on a GPU: matrix products over gathered taps.

A transposed convolution of stride s is s² dense correlations, one for each place of an output pixel modulo s:
pixel q·s + r takes the inputs q − j by the taps r + s·j. Its gradient is a plain strided correlation. Both
gather rows of (tap, channel) values and multiply them by weights [kernel, kernel, cin, cout].
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton._common import is_interpreted, load, rounded, start, store

# the interpreter multiplies the bits of bfloat16, so there operands stay float32
_INTERPRETED = tl.constexpr(is_interpreted())


class Layer(NamedTuple):
    """Sizes of a transposed convolution from [side, side, channels] to [out_side, out_side, width]."""

    side: int
    out_side: int
    channels: int
    width: int
    kernel: int
    stride: int


def plan(weights: Sequence[Tensor], strides: Sequence[int]) -> list[Layer]:
    """List the sizes of the layers, from a single pixel on."""
    layers, side = [], 1
    for weight, stride in zip(weights, strides, strict=True):
        channels, width, kernel = weight.shape[1:4]
        # a single pixel takes any stride: by the kernel's own size each output pixel has one tap, none of
        # them masked
        stride = kernel if side == 1 else stride
        layers.append(Layer(side, (side - 1) * stride + kernel, channels, width, kernel, stride))
        side = layers[-1].out_side
    return layers


def arranged(weight: Tensor) -> Tensor:
    """View weights [K, cin, cout, k, k] as [K, k, k, cin, cout]."""
    return weight.permute(0, 3, 4, 1, 2)


class Blocks(NamedTuple):
    """Rows, columns and depth of a tile of a product; WHOLE where a tile's depth lies within one tap."""

    ROWS: int
    COLUMNS: int
    BLOCK: int
    WHOLE: bool


def blocks(depth: int, width: int, lone: bool, bf16: bool) -> Blocks:
    """Return the tile for `width` columns and taps of `depth` channels, the same for every batch."""
    block = 32 if bf16 and depth % 32 == 0 else 16
    rows, columns = 16 if lone else 64, min(32, max(16, triton.next_power_of_2(width)))
    if width == 1:
        rows, columns = 128, 1
    return Blocks(rows, columns, block, depth % block == 0)


def storage(bf16: bool) -> torch.dtype:
    """Return the dtype of weights and activations between the layers."""
    return torch.bfloat16 if bf16 else torch.float32


@triton.jit
def _operand(pointer, at, mask, BF16: tl.constexpr):
    """Convert elements for the product: to float32, or rounded to bfloat16."""
    if BF16 and pointer.dtype.element_ty == tl.bfloat16 and not _INTERPRETED:
        return tl.load(pointer + at, mask=mask, other=0.0)
    value = load(pointer, at, mask)
    if BF16:
        value = rounded(value, tl.bfloat16)
        if not _INTERPRETED:
            value = value.to(tl.bfloat16)
    return value


@triton.jit
def _pixels(y, x, inside, side, tap_y, tap_x, AHEAD: tl.constexpr):
    """Return (number, whether there is one) of the pixels a tap away."""
    if AHEAD:
        return (y + tap_y) * side + x + tap_x, inside
    pixel_y = y - tap_y
    pixel_x = x - tap_x
    return pixel_y * side + pixel_x, inside & (pixel_y >= 0) & (pixel_y < side) & (pixel_x >= 0) & (
        pixel_x < side
    )


@triton.jit
def gathered_product(
    source, weights, pixels, size, taps, strides, column, columns,
    AHEAD: tl.constexpr, BF16: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, COLUMNS], float32: sums over taps and channels of source times weights.

    pixels   (where its image begins, y, x, whether it counts) of each row; read at ± tap, + where AHEAD
    size     (side, channels) of the source [side, side, channels]
    taps     (first_y, first_x, step, count_y, count_x, kernel): `count` taps along each axis of the kernel
    strides  (tap, channel, column) of the weights
    """
    image, y, x, rows = pixels
    side, channels = size
    first_y, first_x, step, count_y, count_x, kernel = taps
    tap_stride, channel_stride, column_stride = strides
    depth = count_y * count_x * channels
    # a lone column is summed at the end; matrix units would take sixteen
    total = tl.zeros((ROWS, BLOCK if COLUMNS == 1 else COLUMNS), tl.float32)
    for first in range(0, depth, BLOCK):
        place = first + tl.arange(0, BLOCK)
        real = place < depth
        # pixels of a tile within one tap are a matter of rows alone
        tap = (first if WHOLE else place) // channels
        channel = place - tap * channels
        tap_y = tap // count_x
        tap_x = tap - tap_y * count_x
        if WHOLE:
            at, inside = _pixels(y, x, rows, side, tap_y, tap_x, AHEAD)
            at = (image + at * channels)[:, None] + channel[None, :]
            inside = inside[:, None]
        else:
            at, inside = _pixels(
                y[:, None], x[:, None], rows[:, None] & real[None, :], side, tap_y[None, :], tap_x[None, :],
                AHEAD,
            )  # fmt: skip
            at = image[:, None] + at * channels + channel[None, :]
        values = _operand(source, at, inside, BF16)
        which = (
            (first_y + step * tap_y) * kernel + first_x + step * tap_x
        ) * tap_stride + channel * channel_stride
        if COLUMNS == 1:
            row = _operand(weights, which, real, BF16)
            total += values.to(tl.float32) * row.to(tl.float32)[None, :]
        else:
            factors = _operand(
                weights,
                which[:, None] + column[None, :] * column_stride,
                real[:, None] & (column < columns)[None, :],
                BF16,
            )
            total = tl.dot(values, factors, total, input_precision="ieee")
    if COLUMNS == 1:
        return tl.sum(total, 1)[:, None]
    else:
        return total


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
        target = (ahead * size + pixel)[:, None] + column[None, :] * out_side * out_side
        value = 2 * (value - tl.load(x + first * size + target, mask=mask, other=0.0)) * value * (1 - value)
    at = (ahead * size + pixel * pixel_stride)[:, None] + column[None, :] * channel_stride
    store(out + k * class_stride + first * size, at, rounded(value, out.dtype.element_ty), mask)


def up(
    out: Tensor, source: Tensor, weight: Tensor, bias: Tensor, layer: Layer, kind: str, bf16: bool,
    x: Tensor | None = None,
) -> None:  # fmt: skip
    """Write one layer's output for source [K, B, side, side, cin] and weight [K, k, k, cin, cout]."""
    # "gradient": that of ‖image − x‖² with respect to what the sigmoid takes
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
    """Write the gradient of a layer's input [K, B, side, side, cin]: `hidden`, after an ELU, or latents."""
    classes, images = source.shape[:2]
    tile = blocks(layer.width, layer.channels, layer.side == 1, bf16)
    programs = (
        classes * triton.cdiv(images * layer.side**2, tile.ROWS) * triton.cdiv(layer.channels, tile.COLUMNS)
    )
    start(
        down_kernel, programs, out, source, hidden, weight, images, *layer,
        BF16=bf16, num_warps=4, enable_fp_fusion=True, **tile._asdict(),
    )  # fmt: skip
