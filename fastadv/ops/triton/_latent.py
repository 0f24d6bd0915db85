"""Sizes of decoder layers, and a matrix product over gathered taps, for the kernels of the decoders.

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

from fastadv.ops.triton._common import is_interpreted, load, rounded

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
        # where the tile lies within one tap, pixels are a matter of rows alone
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
