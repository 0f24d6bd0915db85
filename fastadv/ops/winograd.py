"""winograd_tiles and winograd_image: both ends of Winograd's convolution with kernels of 3 by 3.

F(m, 3) computes m by m elements of the result from a tile d of (m + 2)² elements of the image and a kernel g:
Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A. Over a batch the product in the middle is one of matrices for each place. With
m = 4 it multiplies a quarter as often as the plain sum, with m = 2 four ninths (Lavin & Gray 2016).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastadv.errors import InputError
from fastadv.ops._rows import check_tensor, wide
from fastadv.ops._samples import assert_sums
from fastadv.ops.registration.library import Sample, op, register

# Bᵀ, G and Aᵀ by m
MATRICES: dict[int, tuple[list[list[float]], list[list[float]], list[list[float]]]] = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}  # fmt: skip


def _both_ways(matrix: list[list[float]], values: Tensor) -> Tensor:
    """Return matrix @ values @ matrixᵀ for values [..., n, n]."""
    factor = torch.tensor(matrix, dtype=values.dtype, device=values.device)
    return factor @ values @ factor.t()


def winograd_kernels(weight: Tensor, size: int) -> Tensor:
    """G g Gᵀ of each kernel of a convolution, weight [O, C, 3, 3] -> [(size + 2)², O, C] in its dtype."""
    _check_size(size)
    check_tensor("weight", weight, ("O", "C", 3, 3), None)
    real = weight.to(wide(weight.dtype)).permute(2, 3, 0, 1).flatten(0, 1)
    factor = torch.tensor(MATRICES[size][1], dtype=real.dtype, device=real.device)
    return (torch.kron(factor, factor) @ real.flatten(1)).view(-1, *real.shape[1:]).to(weight.dtype)


def _tiles(length: int, size: int) -> int:
    return -(-length // size)


def count_tiles(height: int, width: int, size: int) -> int:
    """Return how many tiles give a result of that height and width."""
    return _tiles(height, size) * _tiles(width, size)


def reference_tiles(x: Tensor, size: int, padding: int) -> Tensor:
    real = x.to(wide(x.dtype))
    down, across = (_tiles(n + 2 * padding - 2, size) for n in x.shape[1:3])
    bottom, right = (n * size + 2 - padding - m for n, m in zip((down, across), x.shape[1:3], strict=True))
    padded = pad(real, (0, 0, padding, right, padding, bottom))
    parts = padded.unfold(1, size + 2, size).unfold(2, size + 2, size)
    changed = _both_ways(MATRICES[size][0], parts)  # [B, down, across, C, size + 2, size + 2]
    return changed.flatten(4).flatten(0, 2).transpose(1, 2).to(x.dtype).contiguous()


def fake_tiles(x: Tensor, size: int, padding: int) -> Tensor:
    down, across = (_tiles(n + 2 * padding - 2, size) for n in x.shape[1:3])
    return x.new_empty(x.shape[0] * down * across, (size + 2) ** 2, x.shape[3])


def reference_image(products: Tensor, bias: Tensor | None, shape: Sequence[int], size: int) -> Tensor:
    (count, height, width), channels = shape, products.shape[2]
    down, across = _tiles(height, size), _tiles(width, size)
    parts = products.to(wide(products.dtype)).transpose(1, 2)
    parts = parts.reshape(count, down, across, channels, size + 2, size + 2)
    blocks = _both_ways(MATRICES[size][2], parts).permute(0, 1, 4, 2, 5, 3)
    image = blocks.reshape(count, down * size, across * size, channels)[:, :height, :width]
    return (image if bias is None else image + bias.to(image.dtype)).to(products.dtype).contiguous()


# B, H, W, C, padding
SHAPES = (
    (3, 8, 8, 70, 1), (2, 5, 7, 3, 1), (1, 3, 3, 65, 0), (2, 9, 4, 16, 2), (1, 1, 1, 1, 1), (0, 4, 4, 5, 1),
)  # fmt: skip


def _drawn(shape: Sequence[int], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def samples_of_tiles(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (*shape, padding) in enumerate(SHAPES):
        for size in MATRICES:
            yield _drawn(shape, seed, device, dtype), size, padding


def samples_of_image(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, (count, height, width, channels, _) in enumerate(SHAPES):
        for size in MATRICES:
            tiles = count * count_tiles(height, width, size)
            products = _drawn((tiles, (size + 2) ** 2, channels), seed, device, dtype)
            bias = _drawn((channels,), seed + 100, device, wide(dtype))
            for added in (bias, None):
                yield products, added, [count, height, width], size


register(
    name="winograd_tiles",
    schema="(Tensor x, int size, int padding) -> Tensor",
    summary="Bᵀ d B of every tile d of images",
    reference=reference_tiles,
    fake=fake_tiles,
    samples=samples_of_tiles,
    # sums of up to 36 terms, some of them 64 times an element, in another order, then rounded
    compare=assert_sums,
    no_gradient="it is a part of a convolution that has one",
    ordered=True,
    bytes_moved=lambda x, size, padding: round(x.nbytes * (1 + ((size + 2) / size) ** 2)),
    flops=lambda x, size, padding: 12 * round(x.numel() * ((size + 2) / size) ** 2),
)
register(
    name="winograd_image",
    schema="(Tensor products, Tensor? bias, int[] shape, int size) -> Tensor",
    summary="Aᵀ m A of every tile m, as images",
    reference=reference_image,
    fake=lambda products, bias, shape, size: products.new_empty(*shape, products.shape[2]),
    samples=samples_of_image,
    compare=assert_sums,
    no_gradient="it is a part of a convolution that has one",
    ordered=True,
    bytes_moved=lambda products, bias, shape, size: 2 * products.nbytes,
    flops=lambda products, *rest: 12 * products.numel(),
)


def _check_size(size: int) -> None:
    if size not in MATRICES:
        raise InputError(f"size: expected 2 or 4 elements a tile, got {size!r}")


def winograd_tiles(x: Tensor, size: int, padding: int = 1) -> Tensor:
    """Return the tiles [tiles, (size + 2)², C] of images x [B, H, W, C] among `padding` zeros, in order."""
    _check_size(size)
    check_tensor("x", x, ("B", "H", "W", "C"), None)
    if padding < 0 or min(x.shape[1:3]) + 2 * padding < 3:
        raise InputError(
            f"padding: expected one with which a kernel of 3 by 3 fits {tuple(x.shape[1:3])}, got {padding}"
        )
    return op("winograd_tiles")(x, size, padding)


def winograd_image(products: Tensor, bias: Tensor | None, shape: Sequence[int], size: int) -> Tensor:
    """Return images [B, H, W, C] = (*shape, C) of the products [tiles, (size + 2)², C] of such tiles."""
    _check_size(size)
    count, height, width = shape
    tiles = count * count_tiles(height, width, size)
    check_tensor("products", products, (tiles, (size + 2) ** 2, "C"), None)
    if bias is not None:
        check_tensor("bias", bias, products.shape[2:], None)
        bias = bias.to(wide(products.dtype))
    return op("winograd_image")(products, bias, list(shape), size)
