"""JPEG compression to the bit, without a codec: entropy coding loses nothing, and is left out."""

import torch
from torch import Tensor
from torch.nn import functional

from fastadv.data.corruption.card import Draws, corruption

# Example tables of ITU-T T.81, annex K.1, by rows: what a coefficient is divided by at quality 50
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    (17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99),
)  # fmt: skip  # 99 beyond

# The left halves of the rows of libjpeg's cosine transform, times 2^13: sums of its constants of 13 bits
COSINES = (
    (8192, 8192, 8192, 8192), (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703), (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192), (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433), (2260, -6436, 9633, -11363),
)  # fmt: skip

# From RGB to luma and chroma, times 2^16, and from chroma, whose zero is 128, back
TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
TO_RGB = ((65536, 0, 91881), (65536, -22554, -46802), (65536, 116130, 0))


@corruption(
    cifar=(80, 65, 58, 50, 40),
    tiny=(65, 58, 50, 40, 25),
    imagenet=(25, 18, 15, 10, 7),
)
def jpeg_compression(x: Tensor, quality: int, draws: Draws) -> Tensor:
    """Return what libjpeg-turbo reads from the file that it wrote: baseline, chroma of half the size.

    Its arithmetic is that of integers, which float64 does exactly.
    """
    levels = x.mul(255).round_().double()
    if x.shape[1] == 1:
        return _coded(levels, quality, LUMINANCE).div_(255).float()
    height, width = x.shape[2:]
    y, chroma = _mixed(levels, TO_YCC, (0.5, 128.5 - 2**-16, 128.5 - 2**-16)).split((1, 2), 1)
    # Columns are repeated before the mean of four pixels, rows behind it; its half goes up and down in turn
    chroma = functional.pad(chroma, (0, -width % 16, 0, height % 2), mode="replicate")
    half = functional.avg_pool2d(chroma, 2)
    half = _coded(half.add_(_alternating(half, 0.25, 0.5)).floor_(), quality, CHROMINANCE)
    half = half[..., : (width + 1) // 2].sub_(128)
    chroma = functional.interpolate(half, scale_factor=2.0, mode="bilinear")
    chroma = chroma.add_(_alternating(chroma, 8 / 16, 7 / 16)).floor_()
    whole = torch.cat([_coded(y, quality, LUMINANCE), chroma[..., :height, :width]], 1)
    return _mixed(whole, TO_RGB, (0.5, 0.5, 0.5)).clamp_(0, 255).div_(255).float()


def _mixed(x: Tensor, weights: tuple[tuple[int, ...], ...], shift: tuple[float, ...]) -> Tensor:
    """Mix channels with weights in units of 2^-16, add a shift, and round down."""
    bias = x.new_tensor(shift)[:, None]
    return torch.matmul(x.new_tensor(weights) / 2**16, x.flatten(2)).add_(bias).floor_().view_as(x)


def _alternating(x: Tensor, even: float, odd: float) -> Tensor:
    """Return a row as wide as x whose elements are, in turn, the two values."""
    return x.new_tensor([even, odd]).repeat(x.shape[-1] // 2 + 1)[: x.shape[-1]]


def _coded(x: Tensor, quality: int, table: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return planes of levels [B, C, H, W] whose 8 x 8 blocks were transformed, quantized, and brought back.

    Blocks reach over the edges of the plane, where the last row and column are repeated.
    """
    height, width = x.shape[2:]
    planes = functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate").sub_(128)
    half = x.new_tensor(COSINES)
    sign = x.new_tensor([1, -1]).repeat(4)[:, None]
    cosines = torch.cat([half, half.flip(1) * sign], 1) / 2**13
    rows = _rounded(planes.view(-1, 8) @ (cosines.T * 4))
    columns = rows.view(-1, 8, planes.shape[-1])  # one row of blocks
    coefficients = _rounded((cosines / 4).expand(len(columns), 8, 8) @ columns)
    _quantize_(coefficients.view(len(columns), 8, -1, 8), _steps(x, quality, table))
    columns = _rounded((cosines.T * 4).expand(len(columns), 8, 8) @ coefficients)
    rows = _rounded(columns.view(-1, 8) @ (cosines / 32)).add_(128).clamp_(0, 255)
    return rows.view_as(planes)[..., :height, :width]


def _rounded(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_()


def _steps(x: Tensor, quality: int, table: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the table [8, 8] at a quality from 1 to 100, as libjpeg scales it."""
    corner = x.new_tensor(table)
    full = functional.pad(corner, (0, 8 - len(corner), 0, 8 - len(corner)), value=99)
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return full.mul(percent).add(50).div(100).floor().clamp(1, 255)


def _quantize_(coefficients: Tensor, steps: Tensor) -> None:
    """Round coefficients [N, 8, W, 8], which are 8 times too large, to steps: halves away from zero."""
    steps = steps[:, None]
    sizes = coefficients.abs().add_(4 * steps).div_(8 * steps).floor_().mul_(steps)
    torch.copysign(sizes, coefficients, out=coefficients)
