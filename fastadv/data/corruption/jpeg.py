"""JPEG compression to the bit, without a codec: entropy coding loses nothing, and is left out."""

import torch
from torch import Tensor
from torch.nn import functional

from fastadv.data.corruption.card import Draws, corruption

# Tables of ITU-T T.81, annex K.1: the divisors of coefficients at quality 50; those not named are 99
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
# libjpeg's cosine transform, times 2^13: the left halves of an even row and of the odd one that follows
COSINES = (
    (8192, 8192, 8192, 8192, 11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703, 9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192, 6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433, 2260, -6436, 9633, -11363),
)
# From RGB to luma and to chroma, and from chroma to what RGB has beside luma, times 2^16
TO_LUMA = ((19595, 38470, 7471),)
TO_CHROMA = ((-11059, -21709, 32768), (32768, -27439, -5329))
TO_RGB = ((0, 91881), (-22554, -46802), (116130, 0))

Table = tuple[tuple[int, ...], ...]


@corruption(cifar=(80, 65, 58, 50, 40), tiny=(65, 58, 50, 40, 25), imagenet=(25, 18, 15, 10, 7))
def jpeg_compression(x: Tensor, quality: int, draws: Draws) -> Tensor:
    """Return what libjpeg-turbo reads from the file that it wrote: baseline, chroma of half the size."""
    levels = x.mul(255).round_()
    if x.shape[1] == 1:
        return _coded(levels, quality, LUMINANCE).div_(255)
    height, width = x.shape[2:]
    luma = _coded(_mixed(levels, TO_LUMA, 0.5), quality, LUMINANCE)
    # The right edge is repeated before four pixels become one, the bottom edge after it; from column to
    # column, halves are rounded down and up in turn
    padding = (0, -width % 16, 0, height % 2)
    chroma = functional.pad(_mixed(levels, TO_CHROMA, 128.5 - 2**-16), padding, mode="replicate")
    odd = torch.arange(chroma.shape[-1], device=x.device) % 2
    pairs = chroma[..., ::2, :] + chroma[..., 1::2, :]
    small = (pairs[..., ::2] + pairs[..., 1::2]).add_(1 + odd[: len(odd) // 2]).div_(4).floor_()
    small = _coded(small, quality, CHROMINANCE)[..., : (width + 1) // 2].sub_(128)
    chroma = functional.interpolate(small, scale_factor=2.0, mode="bilinear")[..., :height, :width]
    chroma = chroma.add((8 - odd[:width]) / 16).floor_()
    return _mixed(chroma, TO_RGB, 0.5).add_(luma).clamp_(0, 255).div_(255)


def _mixed(x: Tensor, weights: Table, shift: float) -> Tensor:
    """Mix channels, add a shift, and round down: sums below 2^24 in units of 2^-16, exact in float32."""
    y = x.new_full((len(x), len(weights), *x.shape[2:]), shift)
    for row, channel in zip(weights, y.unbind(1), strict=True):
        for weight, source in zip(row, x.unbind(1), strict=True):
            channel.add_(source, alpha=weight / 2**16)
    return y.floor_()


def _coded(x: Tensor, quality: int, table: Table) -> Tensor:
    """Transform the 8 x 8 blocks of planes of levels [B, C, H, W], quantize, and bring them back."""
    # Blocks beyond an edge repeat the last row and column. Sums of integers are exact in float64.
    height, width = x.shape[2:]
    planes = functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate").double().sub_(128)
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = functional.pad(planes.new_tensor(table), (0, 8 - len(table), 0, 8 - len(table)), value=99)
    steps = steps.mul_(percent).add_(50).div_(100).floor_().clamp_(1, 255).repeat(1, planes.shape[-1] // 8)
    half = planes.new_tensor(COSINES).view(8, 4)
    signs = 1 - 2 * (torch.arange(8, device=x.device)[:, None] % 2)
    cosines = torch.cat([half, half.flip(1) * signs], 1) / 2**13
    y = _rounded(planes.view(-1, 8) @ (cosines.T * 4)).view(-1, 8, planes.shape[-1])  # rows of blocks
    y = _rounded((cosines / 4).expand(len(y), 8, 8) @ y)
    # Coefficients are 8 times too large; the little more makes halves round away from zero
    y.mul_((1 + 2**-40) / (8 * steps)).round_().mul_(steps)
    y = _rounded((cosines.T * 4).expand(len(y), 8, 8) @ y)
    y = _rounded(y.view(-1, 8) @ (cosines / 32)).add_(128).clamp_(0, 255)
    return y.view_as(planes)[..., :height, :width].float()


def _rounded(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_()
